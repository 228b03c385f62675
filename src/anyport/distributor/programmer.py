# SPDX-License-Identifier: Apache-2.0
"""The one place that writes the distributor's maps, command by command, in the planned order."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from anyport.decide.tables import (
    MAX_VIPS,
    Command,
    HostRow,
    SetHost,
    SetRoutes,
    SetSelection,
    Tables,
    plan,
    replacing,
)
from anyport.errors import AnyportError
from anyport.kernel.connections import Entered
from anyport.kernel.distribute import DistributorKernel
from anyport.model import Definition, Method, PortKey, Route
from anyport.model.definition import Address

log = logging.getLogger(__name__)


class Programmer:
    """Routes of every VIP that this host distributes, as the kernel has them."""

    def __init__(self, kernel: DistributorKernel, names: Mapping[Address, str]) -> None:
        """Adopts what the kernel has; `names` says whose the addresses are."""
        self._kernel = kernel
        self._peers: dict[bytes, Collection[int]] | None = None  # not known: written at once
        self._indexes = {vip: index for vip, (index, _) in kernel.vips().items()}
        hosts = kernel.hosts()
        self._addresses = {slot: row.addresses for slot, row in hosts.items()}
        self._tables = Tables.adopt(
            hosts=hosts,
            selections=kernel.selections(),
            routes={index: kernel.routes(index) for index in self._indexes.values()},
            names_by_address=names,
        )

    @property
    def vips(self) -> Mapping[Address, int]:
        """VIP -> row, of those that have routes here."""
        return self._indexes

    def open(self, vip: Address) -> bool:
        """A row for the VIP; whether its connections are known here. Raises AnyportError when all
        are in use.

        If another host has distributed it meanwhile, without the connections
        that were known here: of those that have ended there, the next one
        between the same ports would go to the former's target.
        """
        if vip not in self._indexes:
            self._open(vip)
        elif not self.fenced(vip):
            return True
        self._kernel.forget_vip(self._indexes[vip])
        return False

    def _open(self, vip: Address) -> None:
        free = set(range(MAX_VIPS)) - set(self._indexes.values())
        if not free:
            raise AnyportError(f"vip {vip}: {MAX_VIPS} VIPs are distributed here, and no more fit")
        known = {known: index for index, known in enumerate(self._kernel.known_vips())}
        index = known[vip] if known.get(vip) in free else min(free)
        self._kernel.create_routes(index)
        self._kernel.unfence(index)
        self._indexes[vip] = index

    def close(self, vip: Address) -> None:
        """Stops answering and forwarding for the VIP, then forgets its routes."""
        index = self._indexes.pop(vip, None)
        if index is None:
            return
        self._kernel.delete_vip(vip)
        self._apply(plan(self._tables, index, Method.HASH, replacing(self._tables, index, {}), {}))
        self._kernel.clear_routes(index)

    def answer(self, definition: Definition, mac: bytes, gathering: float | None = None) -> None:
        """From now on packets to the VIP are distributed and ARP for it is answered here.

        `gathering`: see `gather`; None: as it was.
        """
        index = self._indexes[definition.vip]
        # Unfenced last: what is not known must wait from the first packet on.
        self._kernel.set_vip(definition.vip, index, mac, definition.udp_idle, gathering)
        self._kernel.unfence(index)

    def gather(self, vip: Address, seconds: float) -> None:
        """For so long packets of connections that are not known wait; 0: no longer."""
        self._kernel.gather(vip, seconds)

    def set_stand_in(self, vip: Address, host: str | None) -> bool:
        """Who gets them then; None, or a host without a slot: the hash decides. Whether it is
        another than before."""
        slot = None if host is None else self.slot(host)
        if slot == self._kernel.absent(vip):
            return False
        self._kernel.set_absent(vip, slot)
        return True

    def stand_in(self, vip: Address) -> str | None:
        """As the kernel has it; None: nobody, or nobody that is known."""
        slot = self._kernel.absent(vip)
        return None if slot is None else self._tables.host(slot)

    def enter(self, vip: Address, host: str, rows: bytes) -> Entered:
        """What a host says are its connections; none of a host that has no slot."""
        slot = self.slot(host)
        if slot is None or not rows:
            return Entered(0, 0)
        return self._kernel.enter_connections(vip, self._indexes[vip], slot, rows)

    def refresh(self, definition: Definition, mac: bytes) -> None:
        """For a VIP that is answered for: its definition changed. A fence stays."""
        index = self._indexes[definition.vip]
        self._kernel.set_vip(definition.vip, index, mac, definition.udp_idle)

    def fence(self, vip: Address, mac: bytes) -> None:
        """Nothing is answered or forwarded for it here any more: the host of that MAC does."""
        self._kernel.fence(self._indexes[vip], mac)

    def fenced(self, vip: Address) -> bool:
        return self._kernel.fenced(self._indexes[vip])

    def replace(
        self,
        vip: Address,
        method: Method,
        routes: Mapping[PortKey, Route],
        hosts: Mapping[str, HostRow],
    ) -> None:
        """The VIP's routes are these, and no others."""
        self.change(vip, method, replacing(self._tables, self._indexes[vip], routes), hosts)

    def change(
        self,
        vip: Address,
        method: Method,
        routes: Mapping[PortKey, Route | None],
        hosts: Mapping[str, HostRow],
    ) -> None:
        """The routes of these ports are these; None: the local stack refuses."""
        self._apply(plan(self._tables, self._indexes[vip], method, routes, hosts))

    def tell_peers(self, peers: Mapping[bytes, Collection[int]]) -> None:
        """MAC -> rows of the VIPs that its host has, for all hosts."""
        if peers != self._peers:
            left_out = self._kernel.set_peers(peers)
            self._peers = dict(peers)
            if left_out:
                log.warning(
                    "%d hosts more than fit have a MAC that ends in the same byte as others': "
                    "what they send on twice in a takeover, only its TTL ends",
                    left_out,
                )

    def slot(self, host: str) -> int | None:
        return self._tables.slot(host)

    def _hand_over(self, slot: int, row: HostRow) -> None:
        """Connections of the slot's former host must not go on to the next one."""
        if self._addresses.get(slot, row.addresses).isdisjoint(row.addresses):
            self._kernel.forget_connections([slot])
        self._addresses[slot] = row.addresses

    def _apply(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case SetHost(slot=slot, row=row):
                    self._hand_over(slot, row)
                    self._kernel.set_host(slot, row)
                case SetSelection(index=index, row=selection):
                    self._kernel.set_selection(index, selection.method, selection.slots)
                case SetRoutes(vip_index=vip_index, rows=rows):
                    self._kernel.set_routes(vip_index, rows)
