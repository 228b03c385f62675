# SPDX-License-Identifier: Apache-2.0
"""Which slot of the hosts map is whose."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anyport.decide.rows import HostRow, SetHost
from anyport.model.definition import Address


class HostSlots:
    """A host keeps its slot after it has departed: its connections live on in the kernel, and
    it may return. Only when no slot was never used does a new host get a departed one's, the
    longest departed first, and never one that a route still refers to.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots: dict[str, int] = {}
        self._rows: dict[int, HostRow] = {}
        self._departed: dict[int, None] = {}  # longest departed first
        self.unplaced: frozenset[str] = frozenset()

    def adopt(self, rows: Mapping[int, HostRow], names: Mapping[Address, str]) -> None:
        """A slot whose addresses are nobody's, or another slot's too, counts as departed."""
        for slot, row in sorted(rows.items()):
            name = next((names[a] for a in row.addresses if a in names), None)
            self._rows[slot] = row
            if name is None or name in self._slots:
                self._departed[slot] = None
            else:
                self._slots[name] = slot

    def get(self, host: str) -> int | None:
        return self._slots.get(host)

    def host(self, slot: int) -> str | None:
        return next((host for host, its in self._slots.items() if its == slot), None)

    def update(self, hosts: Mapping[str, HostRow], referenced: Callable[[], int]) -> list[SetHost]:
        """Gives each of `hosts` a slot and the kernel its row; the rest have departed.

        `referenced` gives the mask of the slots that a route refers to; it is
        asked only when a slot must be reused.
        """
        for name, slot in self._slots.items():
            if name in hosts:
                self._departed.pop(slot, None)
            else:
                self._departed.setdefault(slot)
        for name in sorted(hosts.keys() - self._slots.keys()):
            self._place(name, referenced)
        self.unplaced = frozenset(hosts.keys() - self._slots.keys())
        placed = [(self._slots[n], row) for n, row in hosts.items() if n in self._slots]
        return [self._set(slot, row) for slot, row in placed if self._rows.get(slot) != row]

    def _place(self, name: str, referenced: Callable[[], int]) -> None:
        used = self._rows.keys() | set(self._slots.values())
        slot = next((s for s in range(self._size) if s not in used), None)
        if slot is None:
            slot = self._longest_departed(referenced)
        if slot is not None:
            self._slots[name] = slot

    def _longest_departed(self, referenced: Callable[[], int]) -> int | None:
        mask = referenced() if self._departed else 0
        for slot in self._departed:
            if not mask >> slot & 1:
                del self._departed[slot]
                self._slots = {n: s for n, s in self._slots.items() if s != slot}
                return slot
        return None

    def _set(self, slot: int, row: HostRow) -> SetHost:
        self._rows[slot] = row
        return SetHost(slot, row)
