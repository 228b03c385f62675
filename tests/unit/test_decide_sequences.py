# SPDX-License-Identifier: Apache-2.0
"""Any sequence of open, close, crash, restart, drain, definition change, claim, takeover and
lost records, on the pure core, against a model that asks R2, R3 and R7 of every socket that is
really open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from anyport.decide.tables import Sizes
from anyport.model import ANY, Definition, HostState, Method, PortKey, PortSet, Protocol, Socket
from anyport.model.definition import Address, Ports
from tests.support.pure_cluster import FIRST_BLOCK_PORT, LAST_BLOCK_PORT, PureCluster

VIPS: list[Address] = [ip_address("192.0.2.10"), ip_address("192.0.2.11")]
NAMES = ["a", "b", "c"]
WILDCARDS: list[Address] = [ip_address("0.0.0.0"), ip_address("::")]
PORTS = [80, 53, 8080, FIRST_BLOCK_PORT + 1]
KEYS: list[PortKey] = [
    (protocol, port)
    for protocol in Protocol
    for port in (*PORTS[:3], *range(FIRST_BLOCK_PORT, LAST_BLOCK_PORT + 1))
]
# Blocks never hold an enumerated port, so none of these is inside their range.
PORT_CHOICES: list[Ports] = [ANY, PortSet.parse("80,53/udp"), PortSet.parse("80-8080/tcp")]

names, vips, protocols = st.sampled_from(NAMES), st.sampled_from(VIPS), st.sampled_from(Protocol)


@dataclass(frozen=True)
class Action:
    """`carry_out` does nothing where it makes no sense, as on a host that is down."""

    word: str
    carry_out: Callable[[PureCluster], object]

    def __repr__(self) -> str:
        return self.word


def on_host(word: str, name: str, do: Callable[[PureCluster], object]) -> Action:
    return Action(f"{name} {word}", lambda c: do(c) if name in c.hosts else None)


def opening(name: str, address: Address, protocol: Protocol, port: int, takes: bool) -> Action:
    def do(cluster: PureCluster) -> None:
        # The kernel refuses explicit binds inside a block, to its owner too.
        if any(port in c.block for c in cluster.claims.values() if c.block.vip == address):
            return
        cluster.open(name, address, protocol, port, takes_ipv4=takes)

    return on_host(f"opens {address} {port}/{protocol.word} {takes}", name, do)


def closing(name: str, which: int) -> Action:
    def do(cluster: PureCluster) -> None:
        cookies = sorted(cluster.machines[name].sockets)
        if cookies:
            cluster.close(name, cookies[which % len(cookies)])

    return on_host(f"closes {which}", name, do)


definitions = st.builds(
    Definition,
    vips,
    st.sampled_from(PORT_CHOICES),
    st.sampled_from(Method),
    st.sampled_from([None, None, frozenset({"a", "b"}), frozenset({"c"})]),
)
openings = st.builds(
    opening,
    names,
    st.sampled_from([*VIPS, *WILDCARDS]),
    protocols,
    st.sampled_from([80, 80, *PORTS]),  # often the same one: sockets must share ports
    st.booleans(),
)
actions = st.one_of(
    *[openings] * 6,
    st.builds(closing, names, st.integers(0, 9)),
    st.builds(closing, names, st.integers(0, 9)),
    st.builds(lambda n: on_host("loses records", n, lambda c: c.lose_records(n)), names),
    st.builds(lambda n: on_host("reconciles", n, lambda c: c.reconcile(n)), names),
    st.builds(lambda n: Action(f"{n} joins", lambda c: c.join(n)), names),
    st.builds(lambda n: on_host("crashes", n, lambda c: c.crash(n)), names),
    st.builds(lambda n: on_host("drains", n, lambda c: c.drain(n)), names),
    st.builds(lambda d: Action(f"define {d}", lambda c: c.define(d)), definitions),
    st.builds(lambda n, v: on_host(f"claims {v}", n, lambda c: c.claim(n, v)), names, vips),
    st.builds(lambda v: Action(f"publish {v}", lambda c: c.publish(v)), vips),
    st.builds(
        lambda n, v, p: on_host(f"binds {v}:0 {p.word}", n, lambda c: c.bind_zero(n, v, p)),
        names,
        vips,
        protocols,
    ),
    st.just(Action("takeover", PureCluster.take_over)),
    st.just(Action("distributor restarts", PureCluster.restart_distributor)),
)


def counts(cluster: PureCluster, name: str, definition: Definition, socket: Socket) -> bool:
    """R2, R3, R7, said as naively as they can be."""
    to_vip = socket.address == definition.vip
    if definition.ports is ANY:
        return to_vip
    takes = socket.address == WILDCARDS[0] or (socket.address == WILDCARDS[1] and socket.takes_ipv4)
    if definition.ports.contains(socket.protocol, socket.port):
        return to_vip or takes
    return to_vip and owner(cluster, definition.vip, socket.port) == name


def owner(cluster: PureCluster, vip: Address, port: int) -> str | None:
    """Claims never overlap here: each is made after the last is known."""
    holders = [c.host for c in cluster.claims.values() if c.block.vip == vip and port in c.block]
    assert len(holders) <= 1
    return holders[0] if holders else None


def expected(cluster: PureCluster, definition: Definition, key: PortKey) -> set[str]:
    holder = owner(cluster, definition.vip, key[1])
    if holder is not None:
        return {holder} if definition.allows(holder) else set()
    return {
        name
        for name, host in cluster.hosts.items()
        if definition.allows(name)
        and host.state is HostState.ACTIVE
        and any(
            (s.protocol, s.port) == key and counts(cluster, name, definition, s)
            for s in cluster.machines[name].sockets.values()
        )
    }


def expected_listeners(
    cluster: PureCluster, definition: Definition
) -> dict[tuple[PortKey, str], bool]:
    """Who listens on what, and whether specifically."""
    return {
        (key, name): any(s.address == definition.vip for s in sharing)
        for name in cluster.hosts
        for key in KEYS
        if definition.allows(name)
        and (
            sharing := [
                s
                for s in cluster.machines[name].sockets.values()
                if (s.protocol, s.port) == key and counts(cluster, name, definition, s)
            ]
        )
    }


def check(cluster: PureCluster) -> None:
    for vip, definition in cluster.definitions.items():
        notified = {
            (key, name): found.specific
            for key, by_host in cluster.listeners[vip].items()
            for name, found in by_host.items()
        }
        assert notified == expected_listeners(cluster, definition)
        table = cluster.table(vip)
        for key in KEYS:
            want = expected(cluster, definition, key)
            reached = cluster.reach(vip, key)
            gone = want - cluster.hosts.keys()  # an owner that never had a slot in these maps
            assert reached == want or (gone and not reached)
            assert bool(want) == (key in table)


def run(sequence: list[Action], sizes: Sizes) -> None:
    cluster = PureCluster(sizes)
    for name in NAMES:
        cluster.join(name)
    for vip, ports in zip(VIPS, PORT_CHOICES, strict=False):
        cluster.define(Definition(vip, ports))
    for action in sequence:
        action.carry_out(cluster)
        if not any(m.losing_records for m in cluster.machines.values()):
            check(cluster)
    for name in NAMES:
        cluster.reconcile(name)
    check(cluster)


@settings(max_examples=1000, deadline=None)
@given(st.lists(actions, min_size=5, max_size=40))
def test_any_sequence_leaves_the_port_table_of_the_model(sequence: list[Action]) -> None:
    run(sequence, Sizes(hosts=4, selections=8, slots=17))


@settings(max_examples=1000, deadline=None)
@given(st.lists(actions, min_size=10, max_size=60))
def test_also_with_almost_no_selections(sequence: list[Action]) -> None:
    run(sequence, Sizes(hosts=3, selections=2, slots=17))
