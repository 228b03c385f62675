# SPDX-License-Identifier: Apache-2.0
"""The table itself: who is given up for whom, several CPUs at once, and that it is a dict."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import sizeof
from ipaddress import IPv4Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyport.kernel import abi
from anyport.kernel.abi import ConnectionState
from anyport.kernel.connections import buckets
from anyport.model import Protocol
from bench.varied import Order, Varied
from tests.packet import world as w
from tests.packet.world import CLIENT, MAC, VIP, World, datagram, segment
from tests.support.packets import ACK, FIN, RST, SYN, ipv4, tcp

ENTRIES = 32 * 4  # the least there are: one page
TICKS = 1e9 / (1 << abi.TICK_SHIFT)  # in a second


@pytest.fixture
def small() -> Iterator[World]:
    world = World(connections=ENTRIES // 2)
    yield world
    world.close()


def ways(world: World) -> dict[tuple[int, int], abi.Connection]:
    """(bucket, way) -> entry, of those in use; and nobody is left with a claim."""
    _, values = world.kernel.table.map.dump()
    found = {}
    for index in range(len(values) // sizeof(abi.Bucket)):
        bucket = abi.Bucket.from_buffer_copy(values, index * sizeof(abi.Bucket))
        for way, entry in enumerate(bucket.ways):
            assert entry.word == 0 or entry.word & abi.WORD_USED
            if entry.word:
                found[index, way] = entry
    return found


def live(world: World, state: ConnectionState, seconds: float) -> None:
    """Every entry is in this state and has been silent for so long."""
    for (index, way), entry in ways(world).items():
        seen = (entry.life - round(seconds * TICKS)) % (1 << abi.SEEN_BITS)
        set_life(world, index, way, state << abi.SEEN_BITS | seen)


def set_life(world: World, index: int, way: int, life: int) -> None:
    key = index.to_bytes(4, "little")
    bucket = abi.Bucket.from_buffer_copy(world.kernel.table.map.lookup(key) or b"")
    bucket.ways[way].life = life
    world.kernel.table.map.update(key, bytes(bucket))


def establish(world: World, ports: range) -> list[int]:
    """The client ports whose connection found room."""

    def finds_room(port: int) -> bool:
        syn, ack = segment(w.SHARED, SYN, port), segment(w.SHARED, ACK, port)
        return world.send(syn, ack) == ["selected", "established"]

    return [port for port in ports if finds_room(port)]


def client_ports(world: World) -> set[int]:
    return {row.client_port for row in world.kernel.connections()}


def fill(world: World) -> None:
    """Until every entry is in use: SYNs displace each other, so more of them than there is room."""
    world.send(*(segment(w.SHARED, client_port=port) for port in range(2000, 4000)))
    assert len(ways(world)) == ENTRIES


# ---- who is given up ----


def test_no_flood_of_syns_evicts_an_established_connection(small: World) -> None:
    """And it goes through: but for a few, by the key of the day, that meet none but established."""
    known = set(establish(small, range(2000, 2060)))
    flood = range(10000, 13000)
    small.send(*(segment(w.SHARED, client_port=port) for port in flood))
    assert known <= client_ports(small)
    acks = small.send(*(segment(w.SHARED, ACK, client_port=port) for port in sorted(known)))
    assert set(acks) == {"established"}
    assert client_ports(small) & set(flood[-10:])


def test_no_flood_of_syns_evicts_a_unique_port_s_connection(small: World) -> None:
    """Its route decides, but should the port be distributed some day, it must stay."""
    for client_port in (known := range(2000, 2006)):
        small.send(segment(w.UNIQUE, SYN, client_port), segment(w.UNIQUE, ACK, client_port))
    small.send(*(segment(w.UNIQUE, client_port=port) for port in range(10000, 13000)))
    assert set(known) <= client_ports(small)
    small.route(w.UNIQUE, w.distributed(3, w.HERE))
    acks = small.send(*(segment(w.UNIQUE, ACK, client_port=port) for port in known))
    assert set(acks) == {"established"}


def test_no_flood_of_syns_evicts_a_half_closed_connection(small: World) -> None:
    """Of which nothing was heard for an hour. Six: so they are not all that a bucket has."""
    known = set(establish(small, range(2000, 2006)))
    small.send(*(segment(w.SHARED, FIN | ACK, port) for port in known))
    live(small, ConnectionState.CLOSING, 3600)
    small.send(*(segment(w.SHARED, client_port=port) for port in range(10000, 13000)))
    assert known <= client_ports(small)


def test_an_rst_that_the_target_did_not_believe(small: World) -> None:
    """RFC 5961 3: a forged one. The client goes on, after seconds, and so does the connection."""
    small.send(segment(w.SHARED), segment(w.SHARED, RST))
    live(small, ConnectionState.RESET, 3)
    small.send(segment(w.SHARED, ACK))
    connection = small.connection()
    assert connection is not None
    assert connection.state is ConnectionState.ESTABLISHED


def test_connections_that_end_leave_room_for_others(small: World) -> None:
    """Not for ever: of what is over as far as the client tells, the longest silent goes first.

    But for a few that meet where others are that have just begun: the key is another each time.
    """
    fill(small)
    live(small, ConnectionState.CLOSING, 60)
    assert len(establish(small, range(10000, 10064))) >= 60


def test_a_handshake_under_way_is_not_given_up_for_what_has_ended(small: World) -> None:
    """The everyday state of a busy table: all but a few entries are of connections that ended."""
    fill(small)
    for port in range(10000, 10200):
        live(small, ConnectionState.CLOSING, 3)
        small.send(segment(w.SHARED, client_port=port))
        assert port - 1 in client_ports(small) or port == 10000
        small.send(segment(w.SHARED, client_port=port + 1000))
        assert port in client_ports(small)


def test_a_table_full_of_established_connections_keeps_them(small: World) -> None:
    """What is new goes where the hash says, all of it, and is counted."""
    fill(small)
    live(small, ConnectionState.ESTABLISHED, 0)
    before = set(small.kernel.connections())
    for port in range(20000, 20100):
        syn, ack = small.run(segment(w.SHARED, SYN, port)), small.run(segment(w.SHARED, ACK, port))
        assert (syn.verdict, ack.verdict) == ("table_full", "hashed")
    assert set(small.kernel.connections()) == before


def test_round_robin_without_room_goes_where_its_next_packet_will(small: World) -> None:
    """A turn that nobody remembers would send the SYN here and the ACK there."""
    fill(small)
    live(small, ConnectionState.ESTABLISHED, 0)
    here: Counter[bool] = Counter()
    for port in range(20000, 20060):
        syn, ack = small.run(segment(w.TURNS, SYN, port)), small.run(segment(w.TURNS, ACK, port))
        assert (syn.verdict, ack.verdict) == ("table_full", "hashed")
        assert syn.action == ack.action
        here[syn.action == w.PASSED] += 1
    assert len(here) == 2


@pytest.mark.parametrize(
    ("state", "seconds", "verdict"),
    [
        (ConnectionState.NEW, 0, "selected"),
        (ConnectionState.CLOSING, 3, "selected"),
        (ConnectionState.CLOSING, 1, "table_full"),
        (ConnectionState.RESET, 3, "selected"),
        (ConnectionState.RESET, 1, "table_full"),
        (ConnectionState.ESTABLISHED, 3600, "table_full"),
        (ConnectionState.ESTABLISHED, 7430, "table_full"),
        (ConnectionState.ESTABLISHED, 7450, "selected"),
        (ConnectionState.ESTABLISHED, 40_000_000, "selected"),
    ],
)
def test_what_has_to_stay(
    small: World, state: ConnectionState, seconds: float, verdict: str
) -> None:
    fill(small)
    live(small, state, seconds)
    assert small.send(segment(w.SHARED, client_port=50000)) == [verdict]


@pytest.mark.parametrize(("seconds", "verdict"), [(290, "table_full"), (310, "selected")])
def test_datagrams_stay_for_five_minutes(small: World, seconds: float, verdict: str) -> None:
    small.send(*(datagram(w.SHARED, client_port=port) for port in range(2000, 4000)))
    assert len(ways(small)) == ENTRIES
    live(small, ConnectionState.ESTABLISHED, seconds)
    assert small.send(datagram(w.SHARED, client_port=50000)) == [verdict]


def test_heard_of_after_the_clock_was_read(small: World) -> None:
    """By another CPU: not 4 years ago."""
    fill(small)
    live(small, ConnectionState.ESTABLISHED, -60)
    assert small.send(segment(w.SHARED, client_port=50000)) == ["table_full"]


def worth(entry: abi.Connection, now: int, crowd: bool) -> tuple[int, int]:
    """The less, the sooner given up; (6, 0): never. As the file says it, not as it is written.

    `crowd`: there are several new ones to choose from.
    """
    state = ConnectionState(entry.life >> abi.SEEN_BITS)
    silent = (now - entry.life) % (1 << abi.SEEN_BITS)
    if state is ConnectionState.RESET and silent >= 2 * TICKS - 1:
        return 1, -silent
    if state is ConnectionState.CLOSING and silent >= 2 * TICKS - 1:
        return 3, -silent
    if state is ConnectionState.NEW:
        return (2 if crowd else 4), -silent
    if state is ConnectionState.ESTABLISHED and silent >= 7440 * TICKS - 1:
        return 5, -silent
    return 6, 0


def test_the_longest_silent_of_the_least_worth_goes_first(small: World) -> None:
    """Whatever else is in the bucket."""
    chance = random.Random(1)
    fill(small)
    displaced: Counter[int] = Counter()
    for port in range(20000, 20400):
        for (index, way), entry in ways(small).items():
            state, age = (
                chance.choice((0, 0, 2, 2, 3) + (1,) * 15),
                chance.choice((0, 30, 5000, 60000)) + way * 100,
            )
            set_life(small, index, way, state << 30 | (entry.life - age) % (1 << abi.SEEN_BITS))
        before = ways(small)
        verdict = small.run(segment(w.SHARED, client_port=port)).verdict
        after = ways(small)
        changed = [place for place in after if bytes(after[place]) != bytes(before[place])]
        if verdict == "table_full":
            assert changed == []
            continue
        ((index, way),) = changed
        now = after[index, way].life
        bucket = {place[1]: entry for place, entry in before.items() if place[0] == index}
        several = sum(entry.life >> abi.SEEN_BITS == 0 for entry in bucket.values()) > 1
        ranks = [  # the other bucket of the pair, which is not known, may have new ones as well
            {way: worth(entry, now, crowd) for way, entry in bucket.items()}
            for crowd in ([True] if several else [True, False])
        ]
        [rank, *_] = [rank for rank in ranks if rank[way] == min(rank.values())]
        displaced[rank[way][0]] += 1
    assert set(displaced) >= {1, 2, 3, 5}


# ---- whose an entry is ----


def test_two_vips_have_their_own_connections(world: World) -> None:
    other = VIP + 1
    world.kernel.create_routes(1)
    world.kernel.set_routes(1, {(Protocol.TCP, w.SHARED): w.distributed(1, w.A)})
    world.kernel.set_vip(other, 1, MAC)
    to_other = w.ip_frame(ipv4(CLIENT, other, 6, tcp(5000, w.SHARED, SYN)))
    assert world.send(segment(w.SHARED), to_other, to_other) == [
        "selected",
        "selected",
        "established",
    ]
    assert {row.vip for row in world.kernel.connections()} == {VIP, other}


def test_a_vip_that_returns_has_its_connections(world: World) -> None:
    world.send(segment(w.SHARED))
    before = list(world.kernel.connections())
    world.kernel.delete_vip(VIP)
    assert list(world.kernel.connections()) == before
    world.kernel.set_vip(VIP, 0, MAC)
    assert world.send(segment(w.SHARED, ACK)) == ["established"]


def test_another_vip_in_the_row_does_not_inherit_them(world: World) -> None:
    world.send(segment(w.SHARED))
    world.kernel.delete_vip(VIP)
    world.kernel.set_vip(VIP + 1, 0, MAC)
    assert list(world.kernel.connections()) == []
    assert world.kernel.known_vips()[0] == VIP + 1


def test_a_vip_is_in_one_row_only(world: World) -> None:
    world.kernel.set_vip(VIP, 3, MAC)
    assert world.kernel.vips()[VIP] == (3, MAC)
    world.kernel.create_routes(3)
    assert world.send(segment(w.SHARED)) == ["no_route"]


def test_sizes() -> None:
    """Two entries a connection, in whole pages."""
    assert [buckets(n) for n in (1, 64, 65, 1024, 1 << 20)] == [32, 32, 64, 512, 1 << 19]


# ---- several CPUs ----


def on_each_cpu(run: Callable[[], object]) -> None:
    """At once."""

    def pinned(cpu: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        run()

    cpus = sorted(os.sched_getaffinity(0))
    with ThreadPoolExecutor(len(cpus)) as pool:
        list(pool.map(pinned, cpus))


def sound(world: World) -> None:
    """No claim is left, nobody is there twice, and each is found by its own packets."""
    ways(world)
    rows = list(world.kernel.connections())
    flows = Counter((r.client, r.client_port, r.port, r.protocol) for r in rows)
    assert set(flows.values()) <= {1}
    assert {row.slot for row in rows} <= {w.HERE, w.A, w.B}
    before = world.kernel.counters()["established"]
    for row in rows:
        assert isinstance(row.client, IPv4Address)
        ack = w.ip_frame(ipv4(row.client, VIP, 6, tcp(row.client_port, row.port, ACK)))
        world.kernel.program.test_run(ack)
    assert world.kernel.counters()["established"] == before + len(rows)


@pytest.fixture(scope="module")
def varied() -> Iterator[Varied]:
    varied = Varied(MAC)
    yield varied
    varied.close()


@pytest.mark.parametrize("connections", [64, 1024])
def test_one_flow_on_several_cpus_is_one_connection(varied: Varied, connections: int) -> None:
    """By turns, so a second entry would mostly name another target.

    The CPUs take the number of the next flow from one counter, which nothing
    protects: often they have the same.
    """
    world = World(connections=connections)
    try:
        for _ in range(10):
            world.kernel.forget_connections({w.HERE, w.A, w.B})
            varied.plan(Order.IN_TURN, 1 << 14)
            on_each_cpu(lambda: varied.run(world.kernel.program, segment(w.TURNS), 10_000))
            sound(world)
    finally:
        world.close()


def test_different_flows_on_several_cpus_share_no_entry(varied: Varied, small: World) -> None:
    """In buckets that are always full, so that they want the same entries."""
    varied.plan(Order.RANDOM, 1 << 14)
    for _ in range(200):
        on_each_cpu(lambda: varied.run(small.kernel.program, segment(w.TURNS), 500))
        sound(small)


def test_a_storm_on_several_cpus(varied: Varied, small: World) -> None:
    """SYNs, ACKs and FINs of any flow, and forgetting."""
    varied.plan(Order.RANDOM, 1024)

    def storm() -> None:
        for flags in [SYN, ACK, SYN, FIN | ACK] * 50:
            varied.run(small.kernel.program, segment(w.TURNS, flags), 1000)
            small.kernel.forget_connections({w.A})

    on_each_cpu(storm)
    sound(small)


# ---- a dict ----

FLOWS = [
    (protocol, client_port, port)
    for protocol in Protocol
    for client_port in range(5000, 5004)
    for port in (w.SHARED, w.TURNS, w.ONLY_A)
]
PACKETS = st.tuples(st.sampled_from(FLOWS), st.sampled_from([SYN, SYN, ACK, FIN | ACK, RST]))
STEPS = st.lists(PACKETS | st.sampled_from([w.A, w.B, w.HERE]), max_size=60)


class Model:
    """Flow -> (slot, state); a new flow's slot is taken from the table, and has to stay."""

    def __init__(self) -> None:
        self.known: dict[tuple[Protocol, int, int], tuple[int | None, ConnectionState]] = {}

    def verdict(self, flow: tuple[Protocol, int, int], flags: int) -> str:
        udp = flow[0] is Protocol.UDP
        opens = udp or flags == SYN
        if flow not in self.known:
            if opens:
                self.known[flow] = None, ConnectionState.NEW
            return "selected" if opens else "hashed"
        slot, state = self.known[flow]
        self.known[flow] = slot, self._next(state, udp, flags)
        return "established"

    def _next(self, state: ConnectionState, udp: bool, flags: int) -> ConnectionState:
        if not udp and flags & RST:
            return ConnectionState.RESET
        if not udp and flags & FIN:
            return state if state is ConnectionState.RESET else ConnectionState.CLOSING
        if not udp and flags == SYN:
            ended = state in (ConnectionState.CLOSING, ConnectionState.RESET)
            return ConnectionState.NEW if ended else state
        return ConnectionState.ESTABLISHED if state is ConnectionState.NEW else state

    def compare(self, world: World) -> None:
        rows = {
            (r.protocol, r.client_port, r.port): (r.slot, r.state)
            for r in world.kernel.connections()
        }
        assert rows.keys() == self.known.keys()
        for flow, (slot, state) in self.known.items():
            assert rows[flow] == (rows[flow][0] if slot is None else slot, state)
        self.known = dict(rows)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_it_is_a_dict_as_long_as_there_is_room(
    world: World, steps: list[tuple[tuple[Protocol, int, int], int] | int]
) -> None:
    model = Model()
    world.kernel.forget_connections(range(abi.MAX_HOSTS))
    for step in steps:
        if isinstance(step, int):
            world.kernel.forget_connections({step})
            model.known = {f: v for f, v in model.known.items() if v[0] != step}
        else:
            (protocol, client_port, port), flags = step
            udp = protocol is Protocol.UDP
            frame = datagram(port, client_port) if udp else segment(port, flags, client_port)
            assert world.send(frame) == [model.verdict((protocol, client_port, port), flags)]
        model.compare(world)


def test_flows_that_differ_in_one_bit_are_told_apart(world: World) -> None:
    """Addresses that differ in one bit anywhere, and the ports the other way round."""
    clients = [IPv4Address(int(CLIENT) ^ 1 << bit) for bit in range(32)]
    frames = [w.ip_frame(ipv4(c, VIP, 6, tcp(5000, w.SHARED, SYN))) for c in clients]
    frames += [segment(w.SHARED, client_port=w.TURNS), segment(w.TURNS, client_port=w.SHARED)]
    assert set(world.send(*frames)) == {"selected"}
    assert set(world.send(*frames)) == {"established"}
    assert len(list(world.kernel.connections())) == len(frames)
