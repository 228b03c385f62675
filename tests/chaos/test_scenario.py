# SPDX-License-Identifier: Apache-2.0
"""A seed is a schedule."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.chaos import bounds
from tests.chaos.faults import Faults
from tests.chaos.scenario import COME_SECONDS, KINDS, Round, rounds

HOSTS = ("host1", "host2", "host3")


def first(seed: int, count: int = 200) -> list[Round]:
    return list(islice(rounds(seed, HOSTS), count))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_seed_gives_the_same_rounds_each_time(seed: int) -> None:
    assert first(seed) == first(seed)


def test_another_seed_gives_others() -> None:
    assert first(1) != first(2)


def test_every_fault_comes_to_everything_that_it_can_hit() -> None:
    seen = {(step.what, step.hits) for round_ in first(1, 1000) for step in round_.faults}
    assert seen == {(what, hits) for what, kind in KINDS.items() for hits in kind.hits}


def test_rounds_are_as_said() -> None:
    for number, round_ in enumerate(first(3), 1):
        assert round_.number == number
        for step in round_.faults:
            least, most = KINDS[step.what].lasts
            assert 0 <= step.at <= COME_SECONDS
            assert least <= step.lasts <= most
        assert {use.host for use in round_.uses} <= set(HOSTS)


def test_each_fault_can_be_done_and_has_an_entry_in_the_excuses() -> None:
    assert KINDS.keys() == bounds.BREAKS.keys() >= bounds.REMOVES
    assert all(hasattr(Faults, f"_{what}") for what in KINDS)
