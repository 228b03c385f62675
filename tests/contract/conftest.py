# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

import pytest

from anyport.registry.base import Changes, Registry
from anyport.registry.etcd import EtcdRegistry
from anyport.registry.memory import MemoryRegistry, MemoryStore
from tests.contract.etcd_server import EtcdServer
from tests.support.certificates import Certificates

TIMEOUT = 30.0
"""Seconds until a test that waits for an event has failed."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_event_loop(anyio_backend: str) -> AsyncIterator[None]:
    """For all tests: gRPC brings the last events of a closed loop to the next one, which fails."""
    yield  # noqa: PT022 - a fixture that has not returned is what keeps the loop


class Store(Protocol):
    """A store under test: clients of it, and what only its operator can do."""

    def client(self) -> Registry: ...

    def compact(self, revision: int) -> None: ...

    def let_expire(self, seconds: float) -> None:
        """Time passes by itself in etcd, and by this call in the memory store."""


class EtcdStore:
    def __init__(self, server: EtcdServer) -> None:
        self._server = server

    def client(self) -> Registry:
        return EtcdRegistry([self._server.endpoint])

    def compact(self, revision: int) -> None:
        self._server.compact(revision)

    def let_expire(self, seconds: float) -> None:
        pass


class InMemory:
    def __init__(self) -> None:
        self._store = MemoryStore()

    def client(self) -> Registry:
        return MemoryRegistry(self._store)

    def compact(self, revision: int) -> None:
        assert revision == self._store.revision
        self._store.compact()

    def let_expire(self, seconds: float) -> None:
        self._store.advance(seconds)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd of the test's own, which it may kill and freeze."""
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def secure_server(tmp_path: Path, certificates: Certificates) -> Iterator[EtcdServer]:
    """Asks its clients for certificates of the authority `ca`."""
    ca = certificates.authority("ca")
    cert, key = certificates.issue("server", ca)
    server = EtcdServer(
        tmp_path,
        tls=[
            f"--cert-file={cert}",
            f"--key-file={key}",
            f"--trusted-ca-file={ca}",
            "--client-cert-auth",
        ],
    )
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["memory", "etcd"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return InMemory()
    return EtcdStore(request.getfixturevalue("server"))


@pytest.fixture
async def registry(store: Store) -> AsyncIterator[Registry]:
    client = store.client()
    yield client
    await client.close()


class Watching:
    """What a watch has delivered, in a task of its own."""

    def __init__(self, registry: Registry, prefix: str, after: int) -> None:
        self._queue: asyncio.Queue[Changes | Exception] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._run(registry, prefix, after))

    async def _run(self, registry: Registry, prefix: str, after: int) -> None:
        try:
            async with aclosing(registry.watch(prefix, after)) as changes:
                async for batch in changes:
                    self._queue.put_nowait(batch)
        except Exception as error:
            self._queue.put_nowait(error)

    async def next(self) -> Changes:
        """The next batch; raises what the watch raised."""
        async with asyncio.timeout(TIMEOUT):
            batch = await self._queue.get()
        if isinstance(batch, Exception):
            raise batch
        return batch

    async def until(self, revision: int) -> list[Changes]:
        """Batches up to the one that reaches `revision`."""
        batches = [await self.next()]
        while batches[-1].revision < revision:
            batches.append(await self.next())
        return batches

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
