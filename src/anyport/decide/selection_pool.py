# SPDX-License-Identifier: Apache-2.0
"""Which selection of the selections map serves which set of targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from anyport.decide.rows import METHOD_NUMBERS, SelectionRow
from anyport.decide.selection import selection
from anyport.model import Method, Target


@dataclass(frozen=True, slots=True)
class TargetSet:
    """What a selection is made from; `slots` are the targets' host slots, in the same order."""

    method: Method
    targets: tuple[Target, ...]
    slots: tuple[int, ...]

    @property
    def mask(self) -> int:
        return sum(1 << slot for slot in self.slots)

    def row(self, size: int) -> SelectionRow:
        chosen = selection(self.method, self.targets, size)
        return SelectionRow(METHOD_NUMBERS[self.method], tuple(self.slots[i] for i in chosen))


class SelectionPool:
    """Ports with the same targets share a selection.

    A selection that a route refers to is never overwritten, nor one that the
    present plan has freed: a packet may be on its way through it. The longest
    free is reused first; until then it is taken up again if its set returns.
    """

    def __init__(self, size: int) -> None:
        self._references: Counter[int] = Counter()
        self._free: dict[int, None] = dict.fromkeys(range(size))  # longest free first
        self._left: dict[int, None] = {}  # without a reference since this plan
        self._index: dict[TargetSet, int] = {}
        self._set: dict[int, TargetSet] = {}
        self._adopted: dict[SelectionRow, int] = {}

    def adopt(self, rows: Mapping[int, SelectionRow], referred: Iterable[int]) -> None:
        """`referred`: the selection index of each route row that has one, repeats included.

        What an adopted selection was made from is not known, but when a set
        is wanted that makes the same row, it is that.
        """
        self._references.update(referred)
        self._adopted = {row: index for index, row in sorted(rows.items(), reverse=True)}
        free = [i for i in self._free if not self._references[i]]
        self._free = dict.fromkeys(sorted(free, key=lambda i: (i in rows, i)))

    @property
    def exhausted(self) -> bool:
        return not self._free

    def find(self, wanted: TargetSet, size: int) -> int | None:
        """The selection that holds `wanted` already, even if nothing refers to it; None: none."""
        if wanted not in self._index and self._adopted:
            adopted = self._adopted.pop(wanted.row(size), None)
            if adopted is not None:
                self._name(adopted, wanted)
        return self._index.get(wanted)

    def allot(self, wanted: TargetSet) -> int | None:
        """A free selection, to be overwritten with `wanted`; None: all are in use."""
        index = next(iter(self._free), None)
        if index is not None:
            del self._free[index]
            self._left[index] = None
            self._adopted = {r: i for r, i in self._adopted.items() if i != index}
            self._name(index, wanted)
        return index

    def refer(self, index: int) -> None:
        self._references[index] += 1
        self._free.pop(index, None)

    def release(self, index: int) -> None:
        self._references[index] -= 1
        if not self._references[index]:
            self._left[index] = None

    def settle(self) -> None:
        """The plan is complete: what nothing refers to any more is free for the next."""
        self._free |= {i: None for i in self._left if not self._references[i]}
        self._left.clear()

    def _name(self, index: int, wanted: TargetSet) -> None:
        former = self._set.get(index)
        if former is not None:
            del self._index[former]
        self._set[index] = wanted
        self._index[wanted] = index
