# SPDX-License-Identifier: Apache-2.0
"""How much of what one host says of a kind counts: the oldest, up to a number.

Who owns a block or is elected must be one answer on every host. So which of
them count follows from what there is in the registry, never from what a reader
happened to see first: when one of the oldest goes, the next takes its place.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from anyport.decide.blocks import MOST_CLAIMS, MOST_VOIDS
from anyport.decide.election import MOST_CANDIDACIES
from anyport.registry.keys import (
    CandidacyKey,
    ClaimKey,
    DefinitionKey,
    DistributingKey,
    DrainKey,
    Key,
    VoidKey,
)

MOST: Mapping[type[Key], int] = {
    CandidacyKey: MOST_CANDIDACIES,
    ClaimKey: MOST_CLAIMS,
    DistributingKey: MOST_CANDIDACIES,
    VoidKey: MOST_VOIDS,
}

_GARBAGE = 64

Rank = tuple[int, str]
"""A revision and a key: one transaction may write many."""


class Limits:
    """`most`: of one host, by kind; others are not limited."""

    def __init__(self, most: Mapping[type[Key], int] = MOST) -> None:
        self._most = most
        self._oldest: dict[tuple[type[Key], str], Oldest] = {}

    def put(self, key: Key, age: int) -> list[str]:
        """There is `key`, as old as revision `age`. Others that count now, or no more."""
        kind = _kind(key)
        if kind is None or kind[0] not in self._most:
            return []
        oldest = self._oldest.setdefault(kind, Oldest(self._most[kind[0]]))
        return oldest.put(str(key), age)

    def drop(self, key: Key) -> list[str]:
        """It is gone, or cannot be read. Others that count now."""
        kind = _kind(key)
        oldest = self._oldest.get(kind) if kind else None
        if kind is None or oldest is None:
            return []
        changed = oldest.drop(str(key))
        if not oldest:
            del self._oldest[kind]
        return changed

    def allow(self, key: Key) -> bool:
        """Whether it counts, once it was `put`."""
        kind = _kind(key)
        oldest = self._oldest.get(kind) if kind else None
        return oldest is None or str(key) in oldest


class Oldest:
    """The `most` oldest of some keys; `len` is of all, `in` is whether one is among them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ages: dict[str, int] = {}
        self._within: list[Rank] = []  # sorted
        self._others: list[Rank] = []  # a heap; some of them are gone, or have other ages
        # A host may say a million: one that comes or goes must not cost a walk over them.

    def __len__(self) -> int:
        return len(self._ages)

    def __contains__(self, key: str) -> bool:
        age = self._ages.get(key)
        return age is not None and (age, key) <= self._within[-1]

    def put(self, key: str, age: int) -> list[str]:
        changed = self.drop(key)
        self._ages[key] = age
        insort(self._within, (age, key))
        if len(self._within) > self._most:
            youngest = self._within.pop()
            heappush(self._others, youngest)
            changed.append(youngest[1])
        return [other for other in changed if other != key]

    def drop(self, key: str) -> list[str]:
        age = self._ages.pop(key, None)
        if age is None:
            return []
        self._clean()
        at = bisect_left(self._within, (age, key))
        if at == len(self._within) or self._within[at] != (age, key):
            return []
        del self._within[at]
        return self._admit()

    def _admit(self) -> list[str]:
        while self._others:
            rank = heappop(self._others)
            if self._ages.get(rank[1]) == rank[0] and rank not in self._within[-1:]:
                self._within.append(rank)
                return [rank[1]]
        return []

    def _clean(self) -> None:
        if len(self._others) > 2 * len(self._ages) + _GARBAGE:
            within = {key for _, key in self._within}
            self._others = [(age, key) for key, age in self._ages.items() if key not in within]
            heapify(self._others)


def _kind(key: Key) -> tuple[type[Key], str] | None:
    return None if isinstance(key, DefinitionKey | DrainKey) else (type(key), key.host)
