# SPDX-License-Identifier: Apache-2.0
"""What the packet programs count: packets and bytes by VIP, target and verdict."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from ctypes import sizeof
from dataclasses import dataclass

from anyport.kernel import abi
from anyport.kernel.libbpf import Map

_WORDS = sizeof(abi.Counters) // 8


@dataclass(frozen=True, slots=True)
class Count:
    """Of one verdict, all CPUs together, since the maps were made.

    `row` is a VIP's or abi.NO_ROW; `slot` a host's, abi.NO_SLOT (not for one
    target), or abi.PAST_SLOT (of hosts and paths that are no more). `bytes`: of
    frames as they came, from the Ethernet header on.
    """

    row: int
    slot: int
    verdict: abi.Verdict
    packets: int
    bytes: int


class Counters:
    """The map `counters` of a loaded distribute.bpf.c. Raises KernelError.

    The program only counts up; what has to leave its place is added up in
    another that the program never writes, so a sum over all never falls.
    """

    def __init__(self, map: Map) -> None:
        self._map = map

    def read(self, rows: Iterable[int], slots: Iterable[int]) -> Iterator[Count]:
        """What is not zero, of these VIPs and hosts, and of what has none."""
        places = itertools.product([*rows, abi.NO_ROW], [*slots, abi.NO_SLOT, abi.PAST_SLOT])
        for row, slot in places:
            for verdict, packets, bytes in _unpack(self._sums(_place(row, slot))):
                yield Count(row, slot, verdict, packets, bytes)

    def release_slot(self, slot: int, rows: Iterable[int]) -> None:
        """Of these VIPs: what was counted for the slot is a past host's, or by a past path."""
        for row in rows:
            self._move([_place(row, slot)], _place(row, abi.PAST_SLOT))

    def release_row(self, row: int) -> None:
        """What was counted for the row's VIP is nobody's: it becomes another's."""
        places = [_place(row, slot) for slot in range(abi.COUNTED_SLOTS)]
        self._move(places, _place(abi.NO_ROW, abi.PAST_SLOT))

    def _move(self, places: Iterable[bytes], to: bytes) -> None:
        """Packets that are counted there while this runs may be lost: a few, if any."""
        for place in places:
            moved = self._sums(place)
            if any(moved):
                self._set(to, [a + b for a, b in zip(moved, self._sums(to), strict=True)])
                self._set(place, [])

    def _sums(self, place: bytes) -> list[int]:
        """Packets and bytes by turns, in the order of abi.Verdict."""
        total = [0] * _WORDS
        for value in self._map.lookup_percpu(place):
            if any(value):
                total = [a + b for a, b in zip(total, memoryview(value).cast("Q"), strict=True)]
        return total

    def _set(self, place: bytes, words: list[int]) -> None:
        """On the first CPU; 0 on all others."""
        value = b"".join(word.to_bytes(8, "little") for word in words)
        self._map.update(place, value.ljust(self._map.stored_size, b"\0"))


def packets_by_verdict(counts: Iterable[Count]) -> dict[str, int]:
    """In lower case; every verdict is there."""
    sums = Counter(dict.fromkeys(abi.Verdict, 0))
    for count in counts:
        sums[count.verdict] += count.packets
    return {verdict.name.lower(): sums[verdict] for verdict in abi.Verdict}


def _unpack(words: list[int]) -> Iterator[tuple[abi.Verdict, int, int]]:
    for verdict in abi.Verdict:
        packets, bytes = words[2 * verdict : 2 * verdict + 2]
        if packets:
            yield verdict, packets, bytes


def _place(row: int, slot: int) -> bytes:
    return (row * abi.COUNTED_SLOTS + slot).to_bytes(4, "little")
