# SPDX-License-Identifier: Apache-2.0
"""What the daemon writes, in dictionaries. The methods are named as DistributorKernel's."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from anyport.decide.rows import (
    MAX_HOSTS,
    MAX_SELECTIONS,
    NO_HOP,
    Family,
    Hop,
    HostRow,
    Path,
    RouteKind,
    RouteRow,
)
from anyport.kernel.abi import SelectionMethod
from anyport.model import PortKey, Protocol
from anyport.model.definition import UDP_IDLE_SECONDS, Address
from tests.packet.reference.connections import Connections
from tests.packet.reference.fragments import Fragments
from tests.packet.reference.hashing import by_weight
from tests.packet.reference.transport import Flow

NO_ROUTE = RouteRow(RouteKind.NONE)


@dataclass(frozen=True)
class Vip:
    row: int
    mac: bytes
    udp_idle: float
    gathering: bool = False
    absent: int | None = None


@dataclass
class Selection:
    method: int
    slots: tuple[int, ...]
    turn: int = 0

    def at(self, position: int) -> int | None:
        return self.slots[position % len(self.slots)] if self.slots else None

    def take_turn(self) -> int | None:
        """R6 by round robin: each new connection takes the next; nothing else does."""
        self.turn += 1
        return self.at(self.turn - 1)


class Tables:
    def __init__(self, connections: Connections, fragments: Fragments) -> None:
        self._connections = connections
        self._fragments = fragments
        self.of_vip: dict[Address, Vip] = {}
        self._known: dict[int, Address] = {}
        self.fences: dict[int, bytes] = {}
        self.peers: Mapping[bytes, Collection[int]] = {}
        self.routes: dict[int, dict[PortKey, RouteRow]] = {}
        self.selections = {i: Selection(SelectionMethod.HASH, ()) for i in range(MAX_SELECTIONS)}
        self.hosts = dict.fromkeys(range(MAX_HOSTS), HostRow(NO_HOP, NO_HOP, 0))

    def set_vip(
        self,
        vip: Address,
        index: int,
        mac: bytes,
        udp_idle: float = UDP_IDLE_SECONDS,
        gathering: float | None = None,
    ) -> None:
        """`gathering`: seconds, which nobody waits for here; None: as it was."""
        if self._known.get(index) != vip:
            self._connections.forget_row(index)
        before = self.of_vip.get(vip)
        if before is None or before.row != index:
            before = Vip(index, mac, udp_idle)
        gathers = before.gathering if gathering is None else gathering > 0
        self.of_vip = {a: v for a, v in self.of_vip.items() if v.row != index}
        self.of_vip[vip] = Vip(index, mac, udp_idle, gathers, before.absent)
        self._known[index] = vip

    def gather(self, vip: Address, seconds: float) -> None:
        if vip in self.of_vip:
            self.of_vip[vip] = replace(self.of_vip[vip], gathering=seconds > 0)

    def absent(self, vip: Address) -> int | None:
        return self.of_vip[vip].absent if vip in self.of_vip else None

    def set_absent(self, vip: Address, slot: int | None) -> None:
        if vip in self.of_vip:
            self.of_vip[vip] = replace(self.of_vip[vip], absent=slot)

    def enter_connections(self, vip: Address, index: int, slot: int, rows: bytes) -> None:
        """Rows: client, its port, port, in network order."""
        size = len(vip.packed)
        for start in range(0, len(rows), size + 4):
            client = ip_address(rows[start : start + size])
            client_port, port = struct.unpack_from("!HH", rows, start + size)
            self._connections.enter(index, Flow(Protocol.TCP, client, client_port, port), slot)

    def delete_vip(self, vip: Address) -> None:
        self.of_vip.pop(vip, None)

    def vips(self) -> dict[Address, tuple[int, bytes]]:
        return {address: (vip.row, vip.mac) for address, vip in self.of_vip.items()}

    def fenced(self, index: int) -> bool:
        return index in self.fences

    def unfence(self, index: int) -> None:
        self.fences.pop(index, None)

    def set_peers(self, peers: Mapping[bytes, Collection[int]]) -> None:
        self.peers = peers

    def create_routes(self, index: int) -> None:
        self.routes[index] = {}

    def set_routes(self, index: int, rows: Mapping[PortKey, RouteRow]) -> None:
        self.routes[index].update(rows)

    def clear_routes(self, index: int) -> None:
        self.routes.pop(index, None)

    def set_selection(self, index: int, method: int, slots: Sequence[int]) -> None:
        self.selections[index] = Selection(method, tuple(slots))

    def set_host(self, slot: int, row: HostRow) -> None:
        self.hosts[slot] = row

    def forget_connections(self, slots: Collection[int]) -> int:
        self._fragments.forget()
        return self._connections.forget_slots(slots)

    # ---- what the decision asks ----

    def is_peer(self, mac: bytes, vip: Vip) -> bool:
        return vip.row in self.peers.get(mac, ())

    def hop(self, slot: int | None, family: Family) -> Hop | None:
        """None: there is no such slot."""
        host = None if slot is None else self.hosts.get(slot)
        if host is None:
            return None
        return host.ipv6 if family is Family.IPV6 else host.ipv4

    def selected(self, route: RouteRow, number: int) -> int | None:
        """A new connection's target, R6."""
        if route.kind == RouteKind.FALLBACK:
            return self._by_weight(route, number)
        selection = self.selections.get(route.target)
        if selection is None:
            return None
        if selection.method == SelectionMethod.ROUND_ROBIN:
            return selection.take_turn()
        return selection.at(number)

    def hashed(self, route: RouteRow, number: int) -> int | None:
        """That of a packet of no known connection: never a turn of the round robin."""
        selection = self.selections.get(route.target)
        if (
            route.kind == RouteKind.DISTRIBUTED
            and selection is not None
            and selection.method == SelectionMethod.HASH
        ):
            return selection.at(number)
        return self._by_weight(route, number)

    def _by_weight(self, route: RouteRow, number: int) -> int | None:
        targets = [slot for slot in self.hosts if route.hosts >> slot & 1]
        return by_weight([(slot, self.hosts[slot].weight) for slot in targets], number)


def leads_on(hop: Hop, family: Family) -> bool:
    """No ARP for an IPv6 packet; and an outer header has two addresses of one family."""
    if hop.address is None:
        return False
    if hop.path == Path.IPIP:
        return hop.source is not None and hop.source.version == hop.address.version
    return hop.path == Path.L2 and (family is Family.IPV4 or hop.address.version == 6)
