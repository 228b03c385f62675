# SPDX-License-Identifier: Apache-2.0
"""The first of the packets that `make fuzz` runs a million of."""

from __future__ import annotations

from tests.fuzz import target
from tests.fuzz.hunt import hunt
from tests.packet.twin import fresh_twin

COUNT = 20_000
OUTER_COUNT = 10_000


def test_mutated_packets() -> None:
    with fresh_twin() as twin:
        found = [finding for finding in hunt(twin, seed=1, count=COUNT) if finding]
    assert not found, str(found[0])


def test_mutated_outer_packets() -> None:
    with target.fresh_target() as kernel:
        found = [finding for finding in target.hunt(kernel, 1, OUTER_COUNT) if finding]
    assert not found, str(found[0])
