# SPDX-License-Identifier: Apache-2.0
"""Selection tables: which target the next connection gets (R6).

Both methods follow from one sequence of turns, in which each target's n-th
turn is due at (n + 1/2) / weight: after any number of turns each target has
had its share to within about one (the Webster divisor rule).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from heapq import heapify, heapreplace
from itertools import islice
from math import gcd

from anyport.model import Method, Target


@lru_cache(maxsize=1024)
def selection(method: Method, targets: tuple[Target, ...], size: int) -> tuple[int, ...]:
    """Indexes into `targets`, at most `size` (a prime) of them."""
    make = maglev if method is Method.HASH else round_robin
    return tuple(make(targets, size))


def maglev(targets: Sequence[Target], size: int) -> list[int]:
    """A consistent hash table of `size` slots (a prime), each an index into `targets`.

    Eisenbud et al., "Maglev" (NSDI 2016), section 3.4: in turn each target
    takes the next free slot of a permutation of its own. Weights decide how
    often its turn comes. The permutation depends on the host's name alone, so
    that every distributor, now and after a restart, makes the same table, and
    few slots change hands when a target comes or goes. A target of weight 0
    gets none, unless all have weight 0: then all count alike.
    """
    steps = [_permutation(t.host, size) for t in targets]
    table = [-1] * size
    for index in islice(_turns(targets), size):
        slot = next(steps[index])
        while table[slot] >= 0:
            slot = next(steps[index])
        table[slot] = index
    return table


def round_robin(targets: Sequence[Target], size_limit: int) -> list[int]:
    """Indexes into `targets` in the order to be used, each as often as its weight asks.

    One round, as short as the weights allow; weights too fine for
    `size_limit` are coarsened, to at least one turn each. Weight 0: as in `maglev`.
    """
    weights = _weights(targets)
    divisor = gcd(*weights)
    round_ = _coarsened([w // divisor for w in weights], size_limit)
    turns = _turns([Target(t.host, w) for t, w in zip(targets, round_, strict=True)])
    return list(islice(turns, sum(round_)))


def _turns(targets: Sequence[Target]) -> Iterator[int]:
    """Endless. Ties go by host name: the order of `targets` must not matter."""
    due = [
        (0.5 / weight, target.host, weight, index)
        for index, (target, weight) in enumerate(zip(targets, _weights(targets), strict=True))
        if weight
    ]
    heapify(due)
    taken = [0] * len(targets)
    while True:
        _, host, weight, index = due[0]
        yield index
        taken[index] += 1
        heapreplace(due, ((taken[index] + 0.5) / weight, host, weight, index))


def _weights(targets: Sequence[Target]) -> list[int]:
    weights = [t.weight for t in targets]
    return weights if any(weights) else [1] * len(weights)


def _coarsened(weights: list[int], limit: int) -> list[int]:
    total, spare = sum(weights), limit - len(weights)
    if total <= limit:
        return weights
    return [max(1, w * spare // total) if w else 0 for w in weights]


def _permutation(host: str, size: int) -> Iterator[int]:
    """Endless: every slot once in `size` steps, as `size` is prime."""
    digest = hashlib.blake2b(host.encode(), digest_size=16).digest()
    slot = int.from_bytes(digest[:8], "big") % size
    skip = int.from_bytes(digest[8:], "big") % (size - 1) + 1
    while True:
        yield slot
        slot = (slot + skip) % size
