# SPDX-License-Identifier: Apache-2.0
"""The distributor's maps as plain dictionaries, and where a packet would go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from anyport.decide.tables import (
    Command,
    HostRow,
    RouteKind,
    RouteRow,
    SelectionRow,
    SetHost,
    SetRoutes,
    SetSelection,
)
from anyport.model import PortKey
from anyport.model.definition import Address


class DataPlane:
    def __init__(self) -> None:
        self.hosts: dict[int, HostRow] = {}
        self.selections: dict[int, SelectionRow] = {}
        self.routes: defaultdict[int, dict[PortKey, RouteRow]] = defaultdict(dict)

    def steps(self, command: Command) -> Iterator[None]:
        """Carries the command out; yields after each single map write."""
        match command:
            case SetHost(slot, row):
                self.hosts[slot] = row
                yield
            case SetSelection(index, selection):
                self.selections[index] = selection
                yield
            case SetRoutes(vip_index, rows):
                for key, route in rows.items():
                    self.routes[vip_index][key] = route
                    yield

    def slots(self, vip_index: int, key: PortKey) -> frozenset[int]:
        """The slots that a new connection to the port may be given."""
        row = self.routes[vip_index].get(key, RouteRow(RouteKind.NONE))
        match row.kind:
            case RouteKind.UNIQUE:
                return frozenset({row.target})
            case RouteKind.DISTRIBUTED:
                return frozenset(self.selections[row.target].slots)
            case RouteKind.FALLBACK:
                return frozenset(s for s in range(row.hosts.bit_length()) if row.hosts >> s & 1)
        return frozenset()

    def reach(self, vip_index: int, key: PortKey) -> frozenset[Address]:
        """The addresses of the hosts that a new connection to the port may reach."""
        return frozenset(
            address for slot in self.slots(vip_index, key) for address in self.hosts[slot].addresses
        )
