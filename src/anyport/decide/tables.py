# SPDX-License-Identifier: Apache-2.0
"""What the distributor has programmed, and ordered changes to it.

`plan` compares what the kernel has with what it should have and returns
commands: hosts first, then selections, then the routes that refer to both.
Carried out in this order none of them sends a packet to a host that is a
target neither before nor after.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from anyport.decide.host_slots import HostSlots
from anyport.decide.rows import (
    MAX_HOSTS,
    MAX_SELECTIONS,
    MAX_VIPS,
    METHOD_NUMBERS,
    NO_HOP,
    SELECTION_SLOTS,
    Command,
    Hop,
    HostRow,
    Path,
    RouteKind,
    RouteRow,
    SelectionRow,
    SetHost,
    SetRoutes,
    SetSelection,
)
from anyport.decide.selection_pool import SelectionPool, TargetSet
from anyport.model import Distributed, Method, PortKey, Route, Unique
from anyport.model.definition import Address

__all__ = [
    "MAX_HOSTS",
    "MAX_SELECTIONS",
    "MAX_VIPS",
    "METHOD_NUMBERS",
    "NO_HOP",
    "SELECTION_SLOTS",
    "Command",
    "Hop",
    "HostRow",
    "Path",
    "RouteKind",
    "RouteRow",
    "SelectionRow",
    "SetHost",
    "SetRoutes",
    "SetSelection",
    "Sizes",
    "Tables",
    "plan",
    "replacing",
]

NO_ROUTE = RouteRow(RouteKind.NONE)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the kernel's maps. `slots`, of one selection, is prime."""

    hosts: int = MAX_HOSTS
    selections: int = MAX_SELECTIONS
    slots: int = SELECTION_SLOTS


class Tables:
    """A record of what the kernel has. `plan` is the only one to change it.

    It is right only while every command that `plan` returned is carried out:
    after a failure, read the kernel and `adopt` anew.
    """

    def __init__(self, sizes: Sizes | None = None) -> None:
        """Of empty maps."""
        self._sizes = sizes or Sizes()
        self._slots = HostSlots(self._sizes.hosts)
        self._selections = SelectionPool(self._sizes.selections)
        self._routes: defaultdict[int, dict[PortKey, RouteRow]] = defaultdict(dict)
        self._masks: Counter[int] = Counter()  # rows by their `hosts`
        self._waiting: dict[tuple[int, PortKey], TargetSet] = {}  # fallback rows, longest first

    @classmethod
    def adopt(
        cls,
        hosts: Mapping[int, HostRow],
        selections: Mapping[int, SelectionRow],
        routes: Mapping[int, Mapping[PortKey, RouteRow]],
        names_by_address: Mapping[Address, str],
        sizes: Sizes | None = None,
    ) -> Tables:
        """Of what was read from the kernel; rows that were never set are left out."""
        tables = cls(sizes)
        tables._slots.adopt(hosts, names_by_address)
        for vip_index, rows in routes.items():
            tables._routes[vip_index] = {k: r for k, r in rows.items() if r.kind != RouteKind.NONE}
        programmed = [row for rows in tables._routes.values() for row in rows.values()]
        tables._masks.update(row.hosts for row in programmed)
        referred = (row.target for row in programmed if row.kind == RouteKind.DISTRIBUTED)
        tables._selections.adopt(selections, referred)
        return tables

    @property
    def unplaced(self) -> frozenset[str]:
        """Hosts for which no slot was left: never targets. When this changes, plan every VIP
        anew, for the routes that leave them out."""
        return self._slots.unplaced

    def slot(self, host: str) -> int | None:
        return self._slots.get(host)

    def host(self, slot: int) -> str | None:
        return self._slots.host(slot)

    def programmed(self, vip_index: int) -> Mapping[PortKey, RouteRow]:
        """The rows of one VIP but those without a route."""
        return self._routes[vip_index]


def plan(
    tables: Tables,
    vip_index: int,
    method: Method,
    routes: Mapping[PortKey, Route | None],
    hosts: Mapping[str, HostRow],
) -> list[Command]:
    """The commands after which the kernel has `routes`, in the order to carry them out.

    `routes` are those that may have changed; None: the port has none any
    more. `hosts` are all hosts that the cluster has now, whatever the VIP.
    What this plan frees only a later one uses: ports on the fallback, of any
    VIP, then leave it.
    """
    return _Plan(tables).make(vip_index, method, routes, hosts)


def replacing(
    tables: Tables, vip_index: int, table: Mapping[PortKey, Route]
) -> dict[PortKey, Route | None]:
    """The `routes` for `plan` after which a VIP has exactly `table`."""
    gone: dict[PortKey, Route | None] = dict.fromkeys(tables.programmed(vip_index))
    return {**gone, **table}


Drafted = tuple[RouteRow, TargetSet | None]
"""A row, and the set that it would rather have a selection of, if it is a fallback."""


class _Plan:
    """One call of `plan`. References are taken as rows are drafted and dropped at the end, so
    that nothing a current route refers to looks free in between."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._selections = tables._selections
        self._filled: list[SetSelection] = []
        self._rows: defaultdict[int, dict[PortKey, RouteRow]] = defaultdict(dict)
        self._replaced: list[RouteRow] = []

    def make(
        self,
        vip_index: int,
        method: Method,
        routes: Mapping[PortKey, Route | None],
        hosts: Mapping[str, HostRow],
    ) -> list[Command]:
        placed = self._tables._slots.update(hosts, self._referenced_slots)
        drafts: dict[Route | None, Drafted] = {}
        for key, route in routes.items():
            if route not in drafts:
                drafts[route] = self._draft(method, route)
            self._enter(vip_index, key, drafts[route])
        self._promote()
        self._drop_replaced()
        changed = [SetRoutes(index, rows) for index, rows in self._rows.items()]
        return [*placed, *self._filled, *changed]

    def _draft(self, method: Method, route: Route | None) -> Drafted:
        if isinstance(route, Unique):
            return self._unique(route.host), None
        wanted = self._target_set(method, route) if route is not None else None
        if route is None or wanted is None:
            return NO_ROUTE, None
        row, waits_for = self._draft_distributed(wanted)
        if waits_for is None:  # a fallback chooses among all that its row names
            row = replace(row, hosts=row.hosts | self._mask(route.keeping))
        return row, waits_for

    def _mask(self, hosts: Iterable[str]) -> int:
        slots = (self._tables.slot(host) for host in hosts)
        return sum(1 << slot for slot in slots if slot is not None)

    def _unique(self, host: str) -> RouteRow:
        slot = self._tables.slot(host)
        return NO_ROUTE if slot is None else RouteRow(RouteKind.UNIQUE, slot, 1 << slot)

    def _draft_distributed(self, wanted: TargetSet) -> Drafted:
        index = self._selections.find(wanted, self._tables._sizes.slots)
        if index is None:
            index = self._fill(wanted)
        if index is None:
            return RouteRow(RouteKind.FALLBACK, 0, wanted.mask), wanted
        return RouteRow(RouteKind.DISTRIBUTED, index, wanted.mask), None

    def _fill(self, wanted: TargetSet) -> int | None:
        index = self._selections.allot(wanted)
        if index is not None:
            row = wanted.row(self._tables._sizes.slots)
            self._filled.append(SetSelection(index, row))
        return index

    def _target_set(self, method: Method, route: Distributed) -> TargetSet | None:
        """None if no target has a slot."""
        slots = {target: self._tables.slot(target.host) for target in route.targets}
        placed = {target: slot for target, slot in slots.items() if slot is not None}
        return TargetSet(method, tuple(placed), tuple(placed.values())) if placed else None

    def _enter(self, vip_index: int, key: PortKey, drafted: Drafted) -> None:
        row, waits_for = drafted
        self._wait(vip_index, key, waits_for)
        programmed = self._tables._routes[vip_index]
        if row == programmed.get(key, NO_ROUTE):
            return
        self._rows[vip_index][key] = row
        if key in programmed:
            self._replaced.append(programmed.pop(key))
        if row.kind != RouteKind.NONE:
            programmed[key] = row
            self._refer(row)

    def _wait(self, vip_index: int, key: PortKey, wanted: TargetSet | None) -> None:
        waiting = self._tables._waiting
        if wanted is None:
            waiting.pop((vip_index, key), None)
        else:
            waiting[vip_index, key] = wanted

    def _promote(self) -> None:
        """Gives the sets that have waited longest the selections that are left."""
        if self._selections.exhausted:
            return
        for (vip_index, key), wanted in list(self._tables._waiting.items()):
            self._enter(vip_index, key, self._draft_distributed(wanted))

    def _referenced_slots(self) -> int:
        mask = 0
        for hosts in self._tables._masks:
            mask |= hosts
        return mask

    def _refer(self, row: RouteRow) -> None:
        self._tables._masks[row.hosts] += 1
        if row.kind == RouteKind.DISTRIBUTED:
            self._selections.refer(row.target)

    def _drop_replaced(self) -> None:
        for row in self._replaced:
            self._drop_mask(row.hosts)
            if row.kind == RouteKind.DISTRIBUTED:
                self._selections.release(row.target)
        self._selections.settle()

    def _drop_mask(self, hosts: int) -> None:
        self._tables._masks[hosts] -= 1
        if not self._tables._masks[hosts]:
            del self._tables._masks[hosts]
