# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from anyport.errors import AnyportError
from anyport.registry.base import Put
from anyport.registry.embedded import start_or_adopt, stop
from anyport.registry.etcd import EtcdRegistry

pytestmark = pytest.mark.anyio


@pytest.fixture
async def data(tmp_path: Path) -> AsyncIterator[Path]:
    directory = tmp_path / "etcd"
    yield directory
    await stop(directory)


def _pid(data: Path) -> int:
    pid: int = json.loads((data / "etcd.json").read_text())["pid"]
    return pid


def _modes(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mode & 0o777 for path in (directory, *directory.iterdir())}


async def _write(endpoints: list[str]) -> int:
    registry = EtcdRegistry(endpoints)
    revision = await registry.write([Put("/a/1", b"")])
    await registry.close()
    return revision


async def test_it_starts_on_ports_of_its_own(data: Path) -> None:
    (endpoint,) = await start_or_adopt(data)
    assert endpoint.startswith("http://127.0.0.1:")
    assert endpoint.rpartition(":")[2] not in ("2379", "2380")
    assert await _write([endpoint]) == 2


async def test_what_runs_is_adopted(data: Path) -> None:
    endpoints = await start_or_adopt(data)
    pid = _pid(data)
    assert await start_or_adopt(data) == endpoints
    assert _pid(data) == pid


async def test_two_that_start_at_once_share_one(data: Path) -> None:
    first, second = await asyncio.gather(start_or_adopt(data), start_or_adopt(data))
    assert first == second


async def test_it_outlives_the_process_that_started_it(data: Path) -> None:
    program = (
        "import asyncio, os, pathlib, signal, sys\n"
        "from anyport.registry.embedded import start_or_adopt\n"
        "asyncio.run(start_or_adopt(pathlib.Path(sys.argv[1])))\n"
        "os.killpg(os.getpgid(0), signal.SIGKILL)\n"
    )
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(data), start_new_session=True
    )
    assert await starter.wait() == -signal.SIGKILL
    pid = _pid(data)
    await _write(await start_or_adopt(data))
    assert _pid(data) == pid


async def test_after_a_stop_it_has_its_contents_and_its_ports(data: Path) -> None:
    endpoints = await start_or_adopt(data)
    revision = await _write(endpoints)
    await stop(data)
    await stop(data)
    assert await start_or_adopt(data) == endpoints
    assert await _write(endpoints) == revision + 1


async def test_a_killed_one_is_started_again(data: Path) -> None:
    endpoints = await start_or_adopt(data)
    revision = await _write(endpoints)
    os.kill(_pid(data), signal.SIGKILL)
    assert await start_or_adopt(data) == endpoints
    assert await _write(endpoints) == revision + 1


async def test_a_pid_that_came_round_again_is_not_taken_for_it(data: Path) -> None:
    await start_or_adopt(data)
    await stop(data)
    state = json.loads((data / "etcd.json").read_text())
    (data / "etcd.json").write_text(json.dumps(state | {"pid": os.getpid()}))
    await stop(data)
    await start_or_adopt(data)
    assert _pid(data) != os.getpid()


async def test_ports_that_were_taken_meanwhile_are_changed(data: Path) -> None:
    (endpoint,) = await start_or_adopt(data)
    revision = await _write([endpoint])
    await stop(data)
    with socket.create_server(("127.0.0.1", int(endpoint.rpartition(":")[2]))):
        moved = await start_or_adopt(data)
        assert moved != [endpoint]
        assert await _write(moved) == revision + 1


async def test_nobody_else_can_read_it(data: Path) -> None:
    await start_or_adopt(data)
    modes = _modes(data)
    assert modes.pop(data) == 0o700
    assert {path.name for path, mode in modes.items() if mode & 0o077} == set()


async def test_the_remedy_is_said_if_there_is_no_etcd(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(AnyportError, match="apt-get install etcd-server"):
        await start_or_adopt(data)


async def test_an_etcd_that_ends_at_once_is_said_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("etcd wants a directory here")
    with pytest.raises(AnyportError, match=r"embedded etcd ended: .*not a directory"):
        await start_or_adopt(tmp_path)


async def test_an_emptied_one_is_another_cluster(data: Path) -> None:
    """By its id alone others tell it from the one it was, once it is past its revisions."""
    before = await _identity(await start_or_adopt(data))
    await stop(data)
    assert await _identity(await start_or_adopt(data)) == before
    await stop(data)
    shutil.rmtree(data / "data")
    assert await _identity(await start_or_adopt(data)) != before


async def _identity(endpoints: list[str]) -> int:
    registry = EtcdRegistry(endpoints)
    listing = await registry.list("/a/")
    await registry.close()
    return listing.store
