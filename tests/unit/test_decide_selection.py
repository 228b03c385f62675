# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyport.decide.selection import maglev, round_robin, selection
from anyport.model import Method, Target

SIZE = 4093


def even(count: int) -> list[Target]:
    return [Target(f"host{n}", 100) for n in range(count)]


target_lists = st.lists(
    st.builds(Target, st.text("abcdef", min_size=1, max_size=3), st.integers(0, 1000)),
    min_size=1,
    max_size=8,
    unique_by=lambda t: t.host,
)


def names(targets: list[Target], table: list[int]) -> list[str]:
    return [targets[i].host for i in table]


def effective(targets: list[Target]) -> dict[str, int]:
    weights = {t.host: t.weight for t in targets}
    return weights if any(weights.values()) else dict.fromkeys(weights, 1)


@settings(max_examples=300, deadline=None)
@given(target_lists)
def test_maglev_shares_follow_weights(targets: list[Target]) -> None:
    shares = Counter(names(targets, maglev(targets, SIZE)))
    weights = effective(targets)
    total = sum(weights.values())
    assert sum(shares.values()) == SIZE
    for host, weight in weights.items():
        assert shares[host] == pytest.approx(SIZE * weight / total, abs=len(targets))
        assert weight or not shares[host]


@settings(max_examples=200, deadline=None)
@given(target_lists)
def test_the_order_of_targets_does_not_matter(targets: list[Target]) -> None:
    backwards = targets[::-1]
    for make in (maglev, round_robin):
        assert names(targets, make(targets, 251)) == names(backwards, make(backwards, 251))


@pytest.mark.parametrize("count", [2, 3, 10, 64])
def test_maglev_moves_little_when_a_target_leaves(count: int) -> None:
    before = even(count)
    after = before[1:]
    was, now = names(before, maglev(before, SIZE)), names(after, maglev(after, SIZE))
    moved = sum(a != b for a, b in zip(was, now, strict=True) if a != "host0")
    assert moved < 0.06 * SIZE


def test_maglev_moves_little_when_a_weight_changes() -> None:
    before = even(10)
    after = [Target("host0", 90), *before[1:]]
    was, now = names(before, maglev(before, SIZE)), names(after, maglev(after, SIZE))
    assert sum(a != b for a, b in zip(was, now, strict=True)) < 0.06 * SIZE


def test_maglev_is_the_same_on_every_host_and_day() -> None:
    """Frozen: two distributors of different versions must agree during a takeover."""
    targets = [Target("alpha", 1), Target("beta", 2), Target("gamma", 1)]
    assert maglev(targets, 13) == [0, 1, 2, 0, 1, 1, 1, 0, 1, 2, 1, 1, 2]


def test_round_robin_is_one_smooth_round() -> None:
    assert round_robin(even(3), SIZE) == [0, 1, 2]
    assert round_robin([Target("a", 300), Target("b", 100)], SIZE) == [0, 0, 1, 0]
    assert round_robin([Target("a", 0), Target("b", 7)], SIZE) == [1]
    assert round_robin([Target("a", 0), Target("b", 0)], SIZE) == [0, 1]


@settings(max_examples=300, deadline=None)
@given(target_lists)
def test_round_robin_follows_weights_within_the_limit(targets: list[Target]) -> None:
    weights = effective(targets)
    total = sum(weights.values())
    order = names(targets, round_robin(targets, SIZE))
    assert 1 <= len(order) <= SIZE
    shares = Counter(order)
    for host, weight in weights.items():
        allowed = len(targets) if total > SIZE else 0
        assert shares[host] == pytest.approx(len(order) * weight / total, abs=allowed + 1e-6)
        assert bool(shares[host]) == bool(weight)


def test_round_robin_spreads_a_heavy_target() -> None:
    order = round_robin([Target("a", 50), Target("b", 50), Target("c", 1)], SIZE)
    assert max(Counter(pairwise(order))[i, i] for i in (0, 1)) <= 2


def test_selection_by_method() -> None:
    targets = tuple(even(3))
    assert selection(Method.HASH, targets, SIZE) == tuple(maglev(targets, SIZE))
    assert selection(Method.ROUND_ROBIN, targets, SIZE) == (0, 1, 2)
