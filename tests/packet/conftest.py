# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.packet.world import World


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture(scope="session")
def shared_world() -> Iterator[World]:
    """To load the program takes longer than all of a table's packets."""
    world = World()
    yield world
    world.close()
