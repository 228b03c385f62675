# SPDX-License-Identifier: Apache-2.0
"""Any sequence of open, close, crash, restart, definition change and lost records, on real
kernels, daemons and etcd, leaves the port table of a model that asks R2, R3 and R7 of every
socket that is really open. tests/unit/test_decide_sequences.py does it to the pure core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from anyport.lab import Lab
from anyport.model import ANY, Definition, Method, PortBlock, PortKey, PortSet, Protocol
from anyport.model.definition import Address, Ports
from tests.support.live_cluster import LiveCluster, NotHere, OpenSocket, Refused, Routes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SEQUENCES, CRASHES, FLOODS = 160, 40, 6

HOSTS = ["host1", "host2", "host3"]
VIPS: list[Address] = [ip_address("10.77.0.200"), ip_address("10.77.0.201")]
ADDRESSES: list[Address] = [*VIPS, ip_address("0.0.0.0"), ip_address("::")]
PORTS = [80, 53, 8080]
SENTINEL = 7  # of every definition; opened last, so what was told before it has arrived
FIRST_BLOCK_PORT, LAST_BLOCK_PORT = 40000, 40255
BLOCKS = {
    "first": FIRST_BLOCK_PORT,
    "last": LAST_BLOCK_PORT,
    "size": 8,
    "largest": 16,
    "low_water": 4,
    "rest": 0,
}
PORT_CHOICES: list[Ports] = [
    ANY,
    PortSet.parse("7,80,53/udp"),
    PortSet.parse("7,80-8080"),
    PortSet.parse("7,80/tcp,40000-40063"),  # ports that are in blocks, perhaps in use
]
FLOOD = 62_000  # sockets, of two records each: the ring buffer holds fewer

names, vips = st.sampled_from(HOSTS), st.sampled_from(VIPS)
protocols = st.sampled_from(Protocol)


@dataclass(frozen=True)
class Action:
    word: str
    carry_out: Callable[[LiveCluster], object]

    def __repr__(self) -> str:
        return self.word


# ---- what happens ----


def opening(name: str, address: Address, protocol: Protocol, port: int, v6only: bool) -> Action:
    def do(cluster: LiveCluster) -> None:
        with suppress(NotHere):  # the VIP: the definition leaves this host out
            cluster.open(name, address, protocol, port, v6only=v6only and address.version == 6)

    only = " v6only" * (v6only and address.version == 6)
    return Action(f"{name} opens {address} {port}/{protocol.word}{only}", do)


def binding_zero(name: str, vip: Address, protocol: Protocol) -> Action:
    def do(cluster: LiveCluster) -> None:
        with suppress(Refused):  # no block yet, or no VIP; `check` asks again when all is quiet
            bind_zero(cluster, name, vip, protocol)

    return Action(f"{name} binds {vip} 0/{protocol.word}", do)


def bind_zero(cluster: LiveCluster, name: str, vip: Address, protocol: Protocol) -> None:
    """R7: nobody else ever has that port."""
    port = cluster.open(name, vip, protocol, 0)
    others = [cluster.machines[other] for other in HOSTS if other != name]
    assert all((s.address, s.port) != (vip, port) for m in others for s in m.open.values())
    assert FIRST_BLOCK_PORT <= port <= LAST_BLOCK_PORT


def bind_zero_at_last(cluster: LiveCluster, name: str, vip: Address) -> None:
    """A daemon that was frozen may say ready before it has read what its kernel handed out."""

    def bound() -> bool:
        with suppress(Refused):
            bind_zero(cluster, name, vip, Protocol.TCP)
            return True
        return False

    cluster.eventually(bound, f"{name} to be given a port of {vip}")


def closing(name: str, which: int) -> Action:
    def do(cluster: LiveCluster) -> None:
        numbers = list(cluster.machines[name].open)
        if numbers:
            cluster.close(name, numbers[which % len(numbers)])

    return Action(f"{name} closes {which}", do)


def on_host(word: str, name: str, do: Callable[[LiveCluster], object]) -> Action:
    return Action(f"{name}: {word}", do)


definitions = st.builds(
    Definition,
    vips,
    st.sampled_from(PORT_CHOICES),
    st.sampled_from(Method),
    st.sampled_from([None, None, frozenset({"host1", "host2"}), frozenset({"host3"})]),
)
openings = st.builds(
    opening,
    names,
    st.sampled_from(ADDRESSES),
    protocols,
    st.sampled_from([80, *PORTS]),  # often the same one: sockets must share ports
    st.booleans(),
)
zeros = st.builds(binding_zero, names, vips, protocols)
closings = st.builds(closing, names, st.integers(0, 9))
defining = st.builds(lambda d: Action(f"define {d}", lambda c: c.define(d)), definitions)
quick = [*[openings] * 5, zeros, zeros, *[closings] * 3, defining, defining]
slow = [
    st.builds(lambda n: on_host("kill -9 program", n, lambda c: c.kill_program(n)), names),
    st.builds(lambda n: on_host("freeze daemon", n, lambda c: c.freeze(n)), names),
    st.builds(lambda n: on_host("thaw daemon", n, lambda c: c.thaw(n)), names),
    st.just(settling := Action("settle", lambda c: check(c))),
]

# ---- what the port table is then ----


def counts(definition: Definition, socket: OpenSocket, own: bool) -> bool:
    """R2, R3, R7, said as naively as they can be. `own`: its port is in a block of its host."""
    specific = socket.address == definition.vip
    wildcard = socket.address.is_unspecified and not socket.v6only
    if definition.ports is ANY:
        return specific
    if definition.ports.contains(socket.protocol, socket.port):
        return specific or wildcard
    return specific and own


def expected(
    cluster: LiveCluster, definition: Definition, blocks: dict[PortBlock, str]
) -> tuple[Routes, Routes]:
    """The port table of a VIP as shown, and as programmed: with leased ports not in use yet."""
    owners: dict[int, str] = {}
    for block, host in blocks.items():
        if block.vip == definition.vip:
            for port in range(block.first, block.last + 1):
                assert port not in owners, f"{port} is in two blocks: {blocks}"
                owners[port] = host
    listening: dict[PortKey, set[str]] = {}
    for name, machine in cluster.machines.items():
        for socket in machine.open.values():
            if definition.allows(name) and counts(
                definition, socket, owners.get(socket.port) == name
            ):
                listening.setdefault((socket.protocol, socket.port), set()).add(name)
    leased: Routes = {
        (protocol, port): ("unique", frozenset({owner}))
        for port, owner in owners.items()
        for protocol in Protocol
        if definition.allows(owner) and not definition.enumerates(protocol, port)
    }
    shown: Routes = {
        key: leased.get(key, ("distributed", frozenset(there))) for key, there in listening.items()
    }
    return shown, {**leased, **shown}


def difference(cluster: LiveCluster, vip: Address) -> str:
    """Empty: the table of the VIP and the distributor's maps are the model's."""
    tenure = cluster.distributor(vip)
    if tenure is None:
        return "the daemons do not agree on a distributor"
    shown, programmed = expected(cluster, cluster.definitions[vip], cluster.blocks(tenure[0]))
    found = cluster.table(vip, tenure[0])
    if found != shown:
        return f"{vip} shown by {tenure}: {_between(found, shown)}"
    found = cluster.programmed(vip, tenure)
    return (
        "" if found == programmed else f"{vip} in maps of {tenure}: {_between(found, programmed)}"
    )


def _between(found: Routes, wanted: Routes) -> str:
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key}: {found.get(key)}, not {wanted.get(key)}" for key in keys)


def settled(cluster: LiveCluster) -> None:
    last = ["never looked"]

    def holds() -> bool:
        last[0] = next((found for vip in VIPS if (found := difference(cluster, vip))), "")
        return not last[0]

    try:
        cluster.eventually(holds, "the model's port table")
    except AssertionError as error:
        raise AssertionError(f"{error}: {last[0]}; open: {cluster.machines}") from None


def ready(cluster: LiveCluster, name: str) -> None:
    try:
        cluster.eventually(lambda: cluster.is_ready(name), f"{name} to be ready")
    except AssertionError as error:
        blocks = {vip: cluster.blocks(name) for vip in VIPS}
        raise AssertionError(f"{error}: {cluster.status(name)}, {blocks}") from None


def check(cluster: LiveCluster) -> None:
    cluster.restore()
    for name in HOSTS:
        ready(cluster, name)
    for vip, definition in cluster.definitions.items():
        for name in filter(definition.allows, HOSTS):
            bind_zero_at_last(cluster, name, vip)
            cluster.open(name, vip, Protocol.TCP, SENTINEL)
    settled(cluster)


@pytest.fixture(scope="module")
def clusters() -> Iterator[Callable[[], LiveCluster]]:
    """The one that there is; a new one after a failure, which must not fail others."""
    lab = Lab(f"s{os.getpid()}")
    running: list[LiveCluster] = []

    def one() -> LiveCluster:
        if running and not running[0].sound:
            running.pop().down()
        if not running:
            running.append(LiveCluster(lab, {"blocks": BLOCKS}))
            running[0].up(len(HOSTS))
        return running[0]

    yield one
    for cluster in running:
        cluster.down()


def run(cluster: LiveCluster, sequence: list[Action]) -> None:
    cluster.sound = False
    for vip in VIPS:
        cluster.define(Definition(vip))
    for action in sequence:
        action.carry_out(cluster)
    check(cluster)
    cluster.close_all()
    settled(cluster)
    cluster.sound = True


# Without shrinking: it tries hundreds of sequences, and each that fails is waited for.
thorough = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def crashing(name: str, before: Action, after: list[Action]) -> Action:
    """A daemon misses what happens between its end and its next start."""

    def do(cluster: LiveCluster) -> None:
        before.carry_out(cluster)
        cluster.kill_daemon(name)
        for action in after:
            action.carry_out(cluster)
        cluster.start_daemon(name)

    return Action(f"{name}: {before}, kill -9 daemon, {after}, start daemon", do)


def flooding(
    name: str,
    silence: Callable[[LiveCluster, str], object],
    waiting: list[Action],
    lost: list[Action],
) -> Action:
    """The daemon does not read; some records wait, the ring buffer fills, others are lost."""

    def do(cluster: LiveCluster) -> None:
        silence(cluster, name)
        for action in waiting:
            action.carry_out(cluster)
        with suppress(NotHere):
            before = cluster.records_lost(name)
            cluster.flood(name, VIPS[0], FLOOD)
            assert cluster.records_lost(name) > before
        for action in lost:
            action.carry_out(cluster)
        cluster.restore()

    return Action(f"{name}: {silence.__name__}, {waiting}, flood, {lost}, restore", do)


happenings = st.lists(st.one_of(*quick), max_size=8)
crashes = st.builds(crashing, names, st.one_of(*quick), happenings)
floods = st.builds(
    flooding,
    names,
    st.sampled_from([LiveCluster.freeze, LiveCluster.kill_daemon]),
    st.lists(st.one_of(*quick), min_size=3, max_size=12),
    st.lists(st.one_of(*quick), min_size=3, max_size=12),
)


@example(
    sequence=[  # host2's block comes to be enumerated while a port of it is in use
        settling,
        Action("define", lambda c: c.define(Definition(VIPS[0], PORT_CHOICES[3]))),
    ]
)
@settings(thorough, max_examples=SEQUENCES)
@given(sequence=st.lists(st.one_of(*quick, *slow), min_size=5, max_size=30))
def test_any_sequence_leaves_the_port_table_of_the_model(
    clusters: Callable[[], LiveCluster], sequence: list[Action]
) -> None:
    run(clusters(), sequence)


@settings(thorough, max_examples=CRASHES)
@given(
    before=st.lists(st.one_of(*quick), max_size=10),
    crash=crashes,
    after=st.lists(st.one_of(*quick, *slow), max_size=10),
)
def test_also_with_daemons_that_crash(
    clusters: Callable[[], LiveCluster], before: list[Action], crash: Action, after: list[Action]
) -> None:
    run(clusters(), [*before, crash, *after])


@example(
    before=[],
    flood=flooding(
        "host1",
        LiveCluster.kill_daemon,
        [opening("host1", VIPS[0], Protocol.TCP, 80, False)],
        [closing("host1", 0)],  # its opening is read, when the daemon is back; its closing is not
    ),
)
@settings(thorough, max_examples=FLOODS)
@given(before=st.lists(st.one_of(*quick), max_size=10), flood=floods)
def test_also_with_lost_records(
    clusters: Callable[[], LiveCluster], before: list[Action], flood: Action
) -> None:
    run(clusters(), [*before, flood])
