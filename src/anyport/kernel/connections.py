# SPDX-License-Identifier: Apache-2.0
"""The distributor's connection table from the side of Python: sized, read, cleared, copied."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Collection, Iterator
from ctypes import sizeof
from dataclasses import dataclass

from anyport.kernel import abi
from anyport.kernel.libbpf import Map, Object, Program
from anyport.kernel.own_connections import row_bytes
from anyport.model import Protocol
from anyport.model.definition import Address

_ENTRY = struct.Struct("<QIHH16s")  # struct connection
_BUCKET = struct.Struct(f"{sizeof(abi.Bucket)}s")
_EMPTY = bytes(_BUCKET.size)
_PIECE = 64 * _BUCKET.size  # where all are empty they are passed over in one comparison
_EMPTY_PIECE = bytes(_PIECE)
_ROOM = 2  # entries for each connection: docs/adr/0010 has what more and less would do
_STEP = 1 << 18  # buckets in one call; bpf_loop() does 2^23 at most
_SEEN_MASK = (1 << abi.SEEN_BITS) - 1

AddressOfRow = Callable[[int], Address]


@dataclass(frozen=True, slots=True)
class ConnectionRow:
    """`seen_ns`: CLOCK_MONOTONIC of the client's last packet, to 0.13 s."""

    client: Address
    client_port: int
    vip: Address
    port: int
    protocol: Protocol
    slot: int
    state: abi.ConnectionState
    seen_ns: int


def now_ns() -> int:
    """CLOCK_MONOTONIC to the tick, as the packet program counts silence."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> abi.TICK_SHIFT << abi.TICK_SHIFT


def in_ticks(seconds: float) -> int:
    """CLOCK_MONOTONIC so many seconds from now, as the packet program counts; never 0."""
    at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + round(seconds * 1e9)
    return (at >> abi.TICK_SHIFT) & 0xFFFFFFFF or 1


def buckets(connections: int) -> int:
    """How many hold as many connections, of which one in 250 then finds no room."""
    page = abi.PAGE_BUCKETS * abi.BUCKET_WAYS
    return -(-connections * _ROOM // page) * abi.PAGE_BUCKETS


@dataclass(frozen=True, slots=True)
class Entered:
    """Of rows that a host said are its connections: how many are another's here already, and
    how many found no room."""

    others: int
    no_room: int


class ConnectionTable:
    """Maps and programs of a loaded distribute.bpf.c. Raises KernelError."""

    def __init__(self, loaded: Object) -> None:
        self.map: Map = loaded.map("connections")
        self._former: Map = loaded.map("former")
        self._forget: Program = loaded.program("forget")
        self._adopt: Program = loaded.program("adopt")
        self._enter: Program = loaded.program("enter")
        self._gathered: Map = loaded.map("gathered")
        _set_key(loaded.map("table_key"))

    def rows(self, vip_of: AddressOfRow) -> Iterator[ConnectionRow]:
        """While packets come: each connection at most once, a changing one perhaps not.

        One in the place of another that is given up while it is read may be
        shown with the other's ports or client: it is no packet's way.
        """
        now = now_ns() >> abi.TICK_SHIFT
        for values in self._buckets():
            for word, life, client_port, port, client in _ENTRY.iter_unpack(values):
                if word & abi.WORD_USED:
                    yield ConnectionRow(
                        abi.unpack_address(client),
                        client_port,
                        vip_of(word >> abi.WORD_VIP & abi.MAX_VIPS - 1),
                        port,
                        Protocol(word >> abi.WORD_PROTOCOL & 1),
                        word & abi.MAX_HOSTS - 1,
                        abi.ConnectionState(life >> abi.SEEN_BITS),
                        _seen(life, now) << abi.TICK_SHIFT,
                    )

    def _buckets(self) -> Iterator[bytes]:
        """Those that are not empty: mostly few, and a takeover waits for them."""
        with self.map.memory() as memory:
            for start in range(0, len(memory), _PIECE):
                piece = memory[start : start + _PIECE]
                if piece != _EMPTY_PIECE[: len(piece)]:
                    yield from (one for (one,) in _BUCKET.iter_unpack(piece) if one != _EMPTY)

    def forget(self, slots: Collection[int] = (), vip_rows: Collection[int] = ()) -> int:
        """How many went to these slots, or to these rows' VIPs."""
        request = abi.UpkeepRequest(_mask(slots), _mask(vip_rows))
        return _run(self._forget, request, self.map.max_entries)

    def adopt_former(self) -> None:
        """Copies what `former` holds and is not known here; as far as there is room."""
        _run(self._adopt, abi.UpkeepRequest(), self._former.max_entries)

    def enter(self, vip: Address, vip_row: int, slot: int, rows: bytes) -> Entered:
        """Connections to this VIP that the host of the slot says are its own.

        `rows`: abi.GATHERED_BYTES at most, as own_connections.OwnConnections has them; a last
        one that is cut off is not read. Who is known here already stays where it is.
        """
        self._gathered.update(bytes(4), rows.ljust(abi.GATHERED_BYTES, b"\0"))
        family = abi.Family.of(vip)
        request = abi.EnterRequest(vip_row, slot, family, len(rows) // row_bytes(vip))
        _, _, answer, _ = self._enter.test_run(ctx_in=bytes(request))
        done = abi.EnterRequest.from_buffer_copy(answer)
        return Entered(done.others, done.no_room)


def _run(program: Program, request: abi.UpkeepRequest, count: int) -> int:
    """Over so many buckets; how many entries it concerned."""
    done = 0
    for first in range(0, count, _STEP):
        request.first, request.count = first, min(_STEP, count - first)
        _, _, answer, _ = program.test_run(ctx_in=bytes(request))
        done += abi.UpkeepRequest.from_buffer_copy(answer).done
    return done


def _set_key(table_key: Map) -> None:
    """Once: the entries that are there stand where it put them."""
    if not any(table_key.lookup(bytes(4)) or b""):
        table_key.update(bytes(4), os.urandom(table_key.value_size))


def _seen(life: int, now: int) -> int:
    """In ticks. What was heard of since `now` was read is not 4 years old."""
    silent = (now - life) & _SEEN_MASK
    return now - (silent if silent <= _SEEN_MASK // 2 else silent - _SEEN_MASK - 1)


def _mask(bits: Collection[int]) -> int:
    return sum(1 << bit for bit in set(bits))
