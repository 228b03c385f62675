# SPDX-License-Identifier: Apache-2.0
"""Which of what one host says count: the oldest, in whatever order a reader hears of them."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from anyport.registry.limits import Oldest

MOST = 2
Step = tuple[str, int | None]
"""A key that is put at this age, or dropped."""

_steps = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(1, 5)))


def check(steps: list[Step]) -> None:
    oldest, there = Oldest(MOST), dict[str, int]()
    for key, age in steps:
        before = {k for k in there if k in oldest}
        changed = oldest.drop(key) if age is None else oldest.put(key, age)
        there.pop(key, None)
        if age is not None:
            there[key] = age
        now = {k for k in there if k in oldest}
        assert now == {k for _, k in sorted((a, k) for k, a in there.items())[:MOST]}
        assert set(changed) >= (before ^ now) - {key}
        assert len(oldest) == len(there)


@given(_steps)
def test_the_oldest_and_who_came_or_went_for_them(steps: list[Step]) -> None:
    check(steps)


def test_whoever_says_and_takes_back_for_ever() -> None:
    """What it leaves behind is cleaned away now and then."""
    chance = random.Random(1)
    check([(chance.choice("abcdef"), chance.choice([None, 1, 2, 3])) for _ in range(5000)])
