# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anyport.kernel.distribute import DistributorKernel
from tests.packet.wire import Wire, attach, fill, fresh_wire
from tests.packet.world import World
from tests.support.netns import fresh_bpffs


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture(scope="session", params=["tc", "xdp"])
def shared_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """In either form; to load the program takes longer than all of a table's packets."""
    world = World(hook=request.param)
    yield world
    world.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    with fresh_wire() as wire:
        yield wire


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    with fresh_bpffs(tmp_path / "bpf") as pins:
        yield pins


@pytest.fixture
def kernel(wire: Wire, pins: Path) -> Iterator[DistributorKernel]:
    kernel = attach(wire, pins)
    fill(kernel, wire)
    yield kernel
    kernel.close()
