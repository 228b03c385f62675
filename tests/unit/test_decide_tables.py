# SPDX-License-Identifier: Apache-2.0
"""Planned changes against simulated maps: no command misroutes, and the last one leaves what
was wanted. The maps are made small so that slots and selections run out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from anyport.decide.tables import (
    NO_HOP,
    Command,
    Hop,
    HostRow,
    Path,
    RouteKind,
    RouteRow,
    SetHost,
    SetRoutes,
    SetSelection,
    Sizes,
    Tables,
    plan,
    replacing,
)
from anyport.model import Distributed, Method, PortKey, Protocol, Route, Target, Unique
from anyport.model.definition import Address
from tests.support.data_plane import DataPlane

NAMES = [f"host{n}" for n in range(8)]
SMALL = Sizes(hosts=4, selections=3, slots=17)
KEYS: list[PortKey] = [(protocol, port) for protocol in Protocol for port in (53, 80, 40000)]


def address(name: str, move: int = 0) -> Address:
    return IPv4Address(f"10.0.{move}.{NAMES.index(name) + 1}")


def host_row(name: str, move: int = 0, weight: int = 100) -> HostRow:
    return HostRow(Hop(address(name, move), Path.L2, 2), NO_HOP, weight)


def distributed(*names: str, weight: int = 100) -> Distributed:
    return Distributed(tuple(Target(name, weight) for name in sorted(names)))


@dataclass(frozen=True)
class Step:
    """What the distributor wants next of one VIP."""

    vip_index: int
    method: Method
    routes: Mapping[PortKey, Route | None]
    hosts: Mapping[str, HostRow]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    present = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    weights = st.sampled_from([0, 1, 3])
    hosts = {n: host_row(n, draw(st.sampled_from([0, 0, 0, 1]))) for n in present}
    targets = st.lists(st.sampled_from(present), min_size=1, unique=True)
    balanced = targets.flatmap(
        lambda names: st.lists(weights, min_size=len(names), max_size=len(names)).map(
            lambda w: Distributed(
                tuple(Target(n, x) for n, x in sorted(zip(names, w, strict=True)))
            )
        )
    )
    # An owner need not be present: its block outlives its lease.
    unique = st.sampled_from(NAMES).map(Unique)
    routes = st.dictionaries(st.sampled_from(KEYS), st.one_of(st.none(), unique, balanced))
    return Step(draw(st.integers(0, 1)), draw(st.sampled_from(Method)), draw(routes), hosts)


def complete(step: Step, wanted: Mapping[PortKey, Route]) -> Step:
    """The step with every port of its VIP named, so that none keeps targets that departed."""
    kept = {k: _without_departed(r, step.hosts) for k, r in wanted.items()}
    return Step(step.vip_index, step.method, {**kept, **step.routes}, step.hosts)


def _without_departed(route: Route, hosts: Mapping[str, HostRow]) -> Route | None:
    if isinstance(route, Unique):
        return route
    left = tuple(t for t in route.targets if t.host in hosts)
    return Distributed(left) if left else None


class Distributor:
    """Plans, carries out, and checks every single write."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        self.tables = Tables(sizes)
        self.maps = DataPlane()
        self.names: dict[Address, str] = {}
        self.wanted: dict[int, dict[PortKey, Route]] = {0: {}, 1: {}}

    def want(self, step: Step) -> list[Command]:
        self.names |= {a: name for name, row in step.hosts.items() for a in row.addresses}
        step = complete(step, self.wanted[step.vip_index])
        wanted = {**self.wanted[step.vip_index], **step.routes}
        self.wanted[step.vip_index] = {k: r for k, r in wanted.items() if r is not None}
        return self.carry_out(
            plan(self.tables, step.vip_index, step.method, step.routes, step.hosts)
        )

    def carry_out(self, commands: list[Command]) -> list[Command]:
        before = self.reachable()
        seen = [self.reachable() for command in commands for _ in self.maps.steps(command)]
        after = self.reachable()
        for state in seen:
            for port, hosts in state.items():
                assert hosts <= before[port] | after[port]
                assert hosts or not before[port] or not after[port]
        return commands

    def reachable(self) -> dict[tuple[int, PortKey], frozenset[str]]:
        return {
            (vip_index, key): frozenset(
                self.names[found] for found in self.maps.reach(vip_index, key)
            )
            for vip_index in (0, 1)
            for key in KEYS
        }

    def expected(self, vip_index: int, key: PortKey) -> set[str]:
        """The hosts that the route asks for, but those without a slot."""
        route = self.wanted[vip_index].get(key)
        if isinstance(route, Unique):
            return {n for n in [route.host] if self.tables.slot(n) is not None}
        targets = () if route is None else route.targets
        placed = [t for t in targets if self.tables.slot(t.host) is not None]
        weighty = [t for t in placed if t.weight] or placed
        row = self.tables.programmed(vip_index).get(key)
        fallback = row is not None and row.kind == RouteKind.FALLBACK
        return {t.host for t in (placed if fallback else weighty)}

    def check(self, vip_index: int) -> None:
        reachable = self.reachable()
        for key in KEYS:
            assert reachable[vip_index, key] == self.expected(vip_index, key)
            assert self.maps.routes[vip_index].get(key, RouteRow(0)) == self.tables.programmed(
                vip_index
            ).get(key, RouteRow(0))

    def readopt(self) -> None:
        """The daemon restarts and reads the maps."""
        self.tables = Tables.adopt(
            self.maps.hosts, self.maps.selections, self.maps.routes, self.names, SMALL
        )


@settings(max_examples=1000, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=12))
def test_no_write_misroutes_and_the_last_one_leaves_what_was_wanted(sequence: list[Step]) -> None:
    distributor = Distributor(SMALL)
    for step in sequence:
        distributor.want(step)
        distributor.check(step.vip_index)


@settings(max_examples=1000, deadline=None)
@given(st.lists(steps(), min_size=2, max_size=8), st.data())
def test_a_restarted_daemon_goes_on_from_what_the_kernel_has(
    sequence: list[Step], data: st.DataObject
) -> None:
    distributor = Distributor(SMALL)
    for step in sequence:
        distributor.want(step)
        distributor.check(step.vip_index)
        if data.draw(st.booleans()):
            distributor.readopt()


@settings(max_examples=500, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=8))
def test_the_same_wish_again_settles_to_no_command(sequence: list[Step]) -> None:
    distributor = Distributor(SMALL)
    for step in sequence:
        distributor.want(step)
    last = sequence[-1]
    for _ in range(SMALL.selections + len(KEYS)):
        commands = distributor.want(last)
    assert commands == []


def test_ports_with_the_same_targets_share_a_selection() -> None:
    tables = Tables()
    hosts = {n: host_row(n) for n in NAMES[:2]}
    table = {key: distributed(*hosts) for key in KEYS}
    commands = plan(tables, 0, Method.HASH, table, hosts)
    assert [type(c) for c in commands] == [SetHost, SetHost, SetSelection, SetRoutes]
    assert set(tables.programmed(0).values()) == {RouteRow(RouteKind.DISTRIBUTED, 0, 0b11)}


def test_restart_with_the_same_wish_writes_nothing() -> None:
    distributor = Distributor(SMALL)
    hosts = {n: host_row(n) for n in NAMES[:3]}
    routes: dict[PortKey, Route | None] = {
        KEYS[0]: distributed(*hosts),
        KEYS[1]: distributed("host1"),
        KEYS[2]: Unique("host2"),
    }
    step = Step(0, Method.HASH, routes, hosts)
    assert distributor.want(step)
    distributor.readopt()
    assert distributor.want(step) == []


def test_a_selection_freed_by_a_plan_is_not_overwritten_by_it() -> None:
    tables = Tables(Sizes(hosts=4, selections=1, slots=17))
    hosts = {n: host_row(n) for n in NAMES[:2]}
    plan(tables, 0, Method.HASH, {KEYS[0]: distributed("host0")}, hosts)
    commands = plan(tables, 0, Method.HASH, {KEYS[0]: distributed("host1")}, hosts)
    assert commands == [SetRoutes(0, {KEYS[0]: RouteRow(RouteKind.FALLBACK, 0, 0b10)})]

    promoted = plan(tables, 1, Method.HASH, {}, hosts)
    assert [type(c) for c in promoted] == [SetSelection, SetRoutes]
    assert tables.programmed(0)[KEYS[0]] == RouteRow(RouteKind.DISTRIBUTED, 0, 0b10)


def test_the_longest_free_selection_is_reused_first() -> None:
    tables = Tables(Sizes(hosts=4, selections=3, slots=17))
    hosts = {n: host_row(n) for n in NAMES[:4]}
    for name in ("host0", "host1", "host2"):
        plan(tables, 0, Method.HASH, {KEYS[0]: distributed(name)}, hosts)
    plan(tables, 0, Method.HASH, {KEYS[0]: distributed("host3")}, hosts)
    assert tables.programmed(0)[KEYS[0]].target == 0


def test_a_set_that_returns_takes_its_selection_up_again_unwritten() -> None:
    tables = Tables(SMALL)
    hosts = {n: host_row(n) for n in NAMES[:2]}
    plan(tables, 0, Method.HASH, {KEYS[0]: distributed("host0")}, hosts)
    plan(tables, 0, Method.HASH, {KEYS[0]: None}, hosts)
    assert plan(tables, 0, Method.HASH, {KEYS[1]: distributed("host0")}, hosts) == [
        SetRoutes(0, {KEYS[1]: RouteRow(RouteKind.DISTRIBUTED, 0, 1)})
    ]


def test_a_departed_host_keeps_its_slot_until_no_other_is_left() -> None:
    tables = Tables(Sizes(hosts=3, selections=3, slots=17))

    def present(*names: str) -> list[int | None]:
        plan(tables, 0, Method.HASH, {}, {n: host_row(n) for n in names})
        return [tables.slot(n) for n in names]

    assert present("host0", "host1") == [0, 1]
    assert present("host1") == [1]
    assert present("host1", "host2") == [1, 2], "slot 0 may still have connections"
    assert present("host0", "host1", "host2") == [0, 1, 2], "it returned"
    present("host1")
    assert present("host1", "host3") == [1, 0], "the longest departed goes first"


def test_a_slot_that_a_route_refers_to_is_not_reused() -> None:
    tables = Tables(Sizes(hosts=1, selections=1, slots=17))
    plan(tables, 0, Method.HASH, {KEYS[0]: Unique("host0")}, {"host0": host_row("host0")})
    newcomer = {"host1": host_row("host1")}
    assert plan(tables, 0, Method.HASH, {KEYS[1]: distributed("host1")}, newcomer) == []
    assert tables.unplaced == {"host1"}

    plan(tables, 0, Method.HASH, {KEYS[0]: None}, newcomer)
    plan(tables, 0, Method.HASH, {KEYS[1]: distributed("host1")}, newcomer)
    assert tables.unplaced == frozenset()
    assert tables.slot("host0") is None
    assert tables.programmed(0)[KEYS[1]].hosts == 1


def test_a_host_that_moves_is_told_to_the_kernel() -> None:
    tables = Tables(SMALL)
    plan(tables, 0, Method.HASH, {}, {"host0": host_row("host0")})
    moved = host_row("host0", move=1)
    assert plan(tables, 0, Method.HASH, {}, {"host0": moved}) == [SetHost(0, moved)]


def test_replacing_withdraws_what_is_not_in_the_new_table() -> None:
    tables = Tables(SMALL)
    hosts = {"host0": host_row("host0")}
    plan(tables, 0, Method.HASH, {KEYS[0]: Unique("host0"), KEYS[1]: Unique("host0")}, hosts)
    routes = replacing(tables, 0, {KEYS[1]: Unique("host0")})
    assert plan(tables, 0, Method.HASH, routes, hosts) == [
        SetRoutes(0, {KEYS[0]: RouteRow(RouteKind.NONE)})
    ]


def test_every_port_of_a_vip_at_once() -> None:
    tables = Tables()
    hosts = {n: host_row(n) for n in NAMES[:3]}
    table = {(p, port): distributed(*hosts) for p in Protocol for port in range(1, 65536)}
    commands = plan(tables, 0, Method.HASH, table, hosts)
    assert len(commands) == 5
    assert len(tables.programmed(0)) == 2 * 65535
    assert plan(tables, 0, Method.HASH, replacing(tables, 0, table), hosts) == []


def test_an_adopted_host_is_known_again_by_either_address() -> None:
    """It may have come to have the other, or lost one, since."""
    six = IPv6Address("2001:db8::1")
    both = HostRow(Hop(address("host1"), Path.L2, 2), Hop(six, Path.L2, 2), 100)
    for known in (address("host1"), six):
        tables = Tables.adopt({3: both}, {}, {}, {known: "host1"})
        assert tables.slot("host1") == 3


def test_who_keeps_flows_is_in_the_row_and_not_in_the_selection() -> None:
    tables, port = Tables(SMALL), KEYS[0]
    hosts = {name: host_row(name) for name in NAMES[:2]}
    route = Distributed(distributed("host0").targets, keeping=("host1", "host7"))
    commands = plan(tables, 0, Method.HASH, {port: route}, hosts)
    [filled] = [c.row for c in commands if isinstance(c, SetSelection)]
    [row] = [c.rows[port] for c in commands if isinstance(c, SetRoutes)]
    slots = [tables.slot(name) for name in hosts]
    assert set(filled.slots) == {slots[0]}
    assert row.hosts == sum(1 << slot for slot in slots if slot is not None)
