# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import Sequence

from anyport.errors import RegistryUnavailable
from anyport.registry.base import Delete, Put, Unchanged, Write
from anyport.registry.memory import MemoryRegistry
from anyport.registry.publisher import Publisher


class Recording(MemoryRegistry):
    """Remembers each transaction; the next `outages` are carried out, their answers lost."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[list[Write]] = []
        self.outages = 0

    async def write(self, writes: Sequence[Write], require: Sequence[Unchanged] = ()) -> int:
        self.transactions.append(list(writes))
        revision = await super().write(writes, require)
        if self.outages:
            self.outages -= 1
            raise RegistryUnavailable("the answer was lost")
        return revision


async def stored(registry: MemoryRegistry) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await registry.list("")).entries}


async def started(registry: MemoryRegistry) -> tuple[Publisher, asyncio.Task[None]]:
    publisher = Publisher(registry)
    publisher.lease_renewed(await registry.grant(5), {})
    return publisher, asyncio.create_task(publisher.run())


def test_many_keys_go_in_few_transactions() -> None:
    async def scenario() -> None:
        registry = Recording()
        publisher, task = await started(registry)
        names = [f"k{n}" for n in range(300)]
        for name in names:
            publisher.set(name, b"v")
        await publisher.flushed(names)
        task.cancel()
        assert [len(t) for t in registry.transactions] == [128, 128, 44]

    asyncio.run(scenario())


def test_the_last_wish_wins_even_while_a_write_is_in_flight() -> None:
    async def scenario() -> None:
        registry = Recording()
        publisher, task = await started(registry)
        publisher.set("k", b"1")
        await publisher.flushed(["k"])
        publisher.set("k", b"2")
        await asyncio.sleep(0)  # the write of 2 is under way
        publisher.set("k", b"1")
        await publisher.flushed(["k"])
        task.cancel()
        assert await stored(registry) == {"k": b"1"}

    asyncio.run(scenario())


def test_what_came_late_is_corrected() -> None:
    """A put of what is closed by now, a deletion of what is open again, an older value."""

    async def scenario() -> None:
        registry = Recording()
        publisher, task = await started(registry)
        for key in ("gone", "open", "other"):
            publisher.set(key, b"1")
        publisher.delete("gone")
        await publisher.flushed(["gone", "open", "other"])
        await registry.write([Put("gone", b"1"), Delete("open"), Put("other", b"0")])
        publisher.correct(await stored(registry))
        await publisher.flushed(["gone", "open", "other"])
        assert await stored(registry) == {"open": b"1", "other": b"1"}
        written = len(registry.transactions)
        publisher.correct(await stored(registry))
        await asyncio.sleep(0)
        task.cancel()
        assert len(registry.transactions) == written

    asyncio.run(scenario())


def test_a_deletion_whose_answer_was_lost_is_repeated() -> None:
    async def scenario() -> None:
        registry = Recording()
        publisher, task = await started(registry)
        publisher.set("k", b"1")
        await publisher.flushed(["k"])
        registry.outages = 1
        publisher.delete("k")
        await publisher.flushed(["k"])
        task.cancel()
        assert registry.transactions[-2:] == [[Delete("k")], [Delete("k")]]
        assert await stored(registry) == {}
        assert publisher.failing_since is None

    asyncio.run(scenario())


def test_a_new_lease_says_everything_again_and_withdraws_what_is_not_wanted() -> None:
    async def scenario() -> None:
        registry = Recording()
        publisher, task = await started(registry)
        publisher.set("a", b"1")
        await publisher.flushed(["a"])
        publisher.lease_renewed(await registry.grant(5), {"stale": b"0"})
        await publisher.flushed(["a", "stale"])
        task.cancel()
        assert registry.transactions[-1] == [Delete("stale"), registry.transactions[-1][1]]
        assert [w.key for w in registry.transactions[-1]] == ["stale", "a"]

    asyncio.run(scenario())


def test_a_transaction_is_no_larger_than_etcd_takes() -> None:
    """Pieces of 64 KiB: 128 of them would be refused."""

    async def scenario() -> None:
        registry = Recording()
        publisher, task = await started(registry)
        names = [f"k{n}" for n in range(40)]
        for name in names:
            publisher.set(name, bytes(65_536))
        await publisher.flushed(names)
        task.cancel()
        assert [len(t) for t in registry.transactions] == [16, 16, 8]

    asyncio.run(scenario())
