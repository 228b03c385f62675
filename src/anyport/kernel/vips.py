# SPDX-License-Identifier: Apache-2.0
"""The VIPs that the distributor's program answers and forwards for: one map of one entry."""

from __future__ import annotations

import itertools
from ctypes import c_uint8

from anyport.kernel import abi
from anyport.kernel.libbpf import Map
from anyport.model.definition import Address

_KEY = bytes(4)


class Vips:
    """`struct vip_table`. Raises KernelError.

    Of the rows that do not change the same bytes are written again, which no packet sees.
    """

    def __init__(self, map: Map) -> None:
        self._map = map

    def rows(self) -> dict[Address, tuple[int, bytes]]:
        """VIP -> (row, MAC)."""
        rows = (row for row in self._read().rows if not _is_free(row))
        return {row.address.unpack(): (row.index, bytes(row.mac)) for row in rows}

    def known(self) -> list[Address]:
        """By row: the VIP that it has, or had last."""
        return [address.unpack() for address in self._read().known]

    def set(
        self, vip: Address, index: int, mac: bytes, udp_idle: int, gathering_until: int | None
    ) -> None:
        """In this row, whatever was there, and in no other. `udp_idle`: seconds.

        `gathering_until`: as `gather` has it; None: as it was. The absent host stays.
        """
        table = self._read()
        gathers_until, absent = _of_takeover(table.rows[index], vip)  # the row is cleared below
        _remove(table, vip)
        table.rows[index] = abi.Vip(
            abi.Address.of(vip),
            index,
            (c_uint8 * 6)(*mac),
            absent=absent,
            gathering_until=gathers_until if gathering_until is None else gathering_until,
            udp_idle_ns=udp_idle * 10**9,
        )
        table.known[index] = abi.Address.of(vip)
        self._write(table)

    def gather(self, vip: Address, until: int) -> None:
        """Until when, in ticks, connections that are not known wait; 0: no longer.

        Absent: success.
        """
        table = self._read()
        for row in _rows_of(table, vip):
            row.gathering_until = until
        self._write(table)

    def absent(self, vip: Address) -> int | None:
        """The slot that `set_absent` has set; None: none."""
        return next((row.absent - 1 for row in _rows_of(self._read(), vip) if row.absent), None)

    def set_absent(self, vip: Address, slot: int | None) -> None:
        """Whose host may have the connections that are not known; None: nobody.

        No row of the VIP: success.
        """
        table = self._read()
        for row in _rows_of(table, vip):
            row.absent = 0 if slot is None else slot + 1
        self._write(table)

    def delete(self, vip: Address) -> None:
        """Absent: success."""
        table = self._read()
        _remove(table, vip)
        self._write(table)

    def _read(self) -> abi.VipTable:
        return abi.VipTable.from_buffer_copy(self._map.lookup(_KEY) or b"")

    def _write(self, table: abi.VipTable) -> None:
        table.used = len(list(itertools.dropwhile(_is_free, reversed(table.rows))))
        self._map.update(_KEY, bytes(table))


def _rows_of(table: abi.VipTable, vip: Address) -> list[abi.Vip]:
    return [row for row in table.rows if row.address.unpack() == vip]


def _of_takeover(row: abi.Vip, vip: Address) -> tuple[int, int]:
    """Until when the VIP gathers, and its `absent`, if the row is its own."""
    return (row.gathering_until, row.absent) if row.address.unpack() == vip else (0, 0)


def _remove(table: abi.VipTable, vip: Address) -> None:
    for index, row in enumerate(table.rows):
        if row.address.unpack() == vip:
            table.rows[index] = abi.Vip()


def _is_free(row: abi.Vip) -> bool:
    return not any(row.address.words)
