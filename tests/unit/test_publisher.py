# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address

from anyport.errors import RegistryUnavailable
from anyport.model import Host
from anyport.registry.base import Delete, Put, Unchanged, Write
from anyport.registry.keys import ClaimKey, HeartbeatKey, HostKey
from anyport.registry.memory import MemoryRegistry
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher
from anyport.registry.values import encode

ME = str(HostKey("me"))
VALUE = encode(Host("me", ip_address("10.0.0.1")))
MINE = "/anyport/v1/hosts/me/x/"


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


class Slow(Recording):
    """Takes the first write beneath MINE at once, and answers it when told."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = asyncio.Event()
        self.answer = asyncio.Event()

    async def write(self, writes: Sequence[Write], require: Sequence[Unchanged] = ()) -> int:
        revision = await super().write(writes, require)
        if writes[0].key.startswith(MINE) and not self.taken.is_set():
            self.taken.set()
            await self.answer.wait()
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


async def following(registry: MemoryRegistry) -> tuple[Publisher, Mirror, list[asyncio.Task[None]]]:
    """A publisher of host `me`, and the mirror that tells it what the registry has."""
    publisher = Publisher(registry)
    publisher.lease_renewed(await registry.grant(5), {})
    mirror = Mirror(registry, first_pause=0.0, reader="me")
    mirror.on_own = publisher.heard
    tasks = [asyncio.create_task(publisher.run()), asyncio.create_task(mirror.run())]
    publisher.set(ME, VALUE)
    await publisher.flushed([ME])
    await mirror.caught_up(registry.store.revision)
    return publisher, mirror, tasks


async def quiet(registry: Recording, mirror: Mirror) -> list[list[Write]]:
    """All transactions, once the registry's last change has led to none."""
    while True:
        written = len(registry.transactions)
        await mirror.caught_up(registry.store.revision)
        for _ in range(10):
            await asyncio.sleep(0)
        if len(registry.transactions) == written:
            return registry.transactions


def test_what_came_late_is_corrected_as_soon_as_it_is_heard() -> None:
    """As above, but that nobody waits for the next comparison."""

    async def scenario() -> None:
        registry = Recording()
        publisher, mirror, tasks = await following(registry)
        gone, again, other = (f"{MINE}{n}" for n in ("gone", "open", "other"))
        for key in (gone, again, other):
            publisher.set(key, b"1")
        publisher.delete(gone)
        await publisher.flushed([gone, again, other])
        lease = registry.store.entries[again].lease
        late = MemoryRegistry(registry.store)
        await late.write([Put(gone, b"1", lease), Delete(again), Put(other, b"0", lease)])
        await quiet(registry, mirror)
        assert await stored(registry) == {ME: VALUE, again: b"1", other: b"1"}
        for task in tasks:
            task.cancel()

    asyncio.run(scenario())


def test_what_came_while_another_write_was_in_flight_is_corrected() -> None:
    async def scenario() -> None:
        registry = Slow()
        publisher, mirror, tasks = await following(registry)
        key = f"{MINE}k"
        publisher.set(key, b"1")
        await registry.taken.wait()  # and its answer is under way
        lease = registry.store.entries[key].lease
        await mirror.caught_up(await MemoryRegistry(registry.store).write([Put(key, b"0", lease)]))
        registry.answer.set()
        await publisher.flushed([key])
        await quiet(registry, mirror)
        assert await stored(registry) == {ME: VALUE, key: b"1"}
        for task in tasks:
            task.cancel()

    asyncio.run(scenario())


def test_echoes_are_not_answered() -> None:
    """However late they come."""

    async def scenario() -> None:
        registry = Recording()
        publisher, task = await started(registry)
        said = {}
        for value in (b"1", b"2", None, b"3"):
            publisher.delete("k") if value is None else publisher.set("k", value)
            await publisher.flushed(["k"])
            said[registry.store.revision] = value
        for revision, value in said.items():
            publisher.heard({"k": value}, revision)
        await asyncio.sleep(0)
        task.cancel()
        assert len(registry.transactions) == len(said)

    asyncio.run(scenario())


def test_what_is_no_wish_or_went_with_the_lease_is_not_corrected() -> None:
    async def scenario() -> None:
        registry = Recording()
        publisher, mirror, tasks = await following(registry)
        publisher.set(f"{MINE}k", b"1")
        await publisher.flushed([f"{MINE}k"])
        lease = registry.store.entries[ME].lease
        claim, heartbeat = ClaimKey("me", ip_address("10.0.0.100"), 40000), HeartbeatKey("me")
        other = MemoryRegistry(registry.store)
        await other.write([Put(str(claim), b"{}"), Put(str(heartbeat), b"{}", lease)])
        written = len(await quiet(registry, mirror))
        registry.store.revoke(lease)
        assert len(await quiet(registry, mirror)) == written == 2
        for task in tasks:
            task.cancel()

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


def test_it_is_behind_until_all_that_waited_is_said() -> None:
    """Whatever is asked for later; and what is withdrawn meanwhile is not waited for."""

    async def scenario() -> None:
        registry = Recording()
        publisher = Publisher(registry)
        publisher.lease_renewed(await registry.grant(5), {})
        assert not publisher.is_behind()
        for key in ("a", "b", "withdrawn"):
            publisher.set(key, b"1")
        assert not publisher.is_behind()
        publisher.owe()
        publisher.delete("withdrawn")
        assert publisher.is_behind()
        task = asyncio.create_task(publisher.run())
        await publisher.flushed(["a", "b"])
        publisher.set("later", b"1")
        assert not publisher.is_behind()
        await publisher.flushed(["later"])
        task.cancel()

    asyncio.run(scenario())


def test_a_new_lease_is_behind_until_all_is_said_again() -> None:
    async def scenario() -> None:
        registry = Recording()
        publisher, task = await started(registry)
        publisher.set("a", b"1")
        await publisher.flushed(["a"])
        publisher.lease_renewed(await registry.grant(5), {})
        assert publisher.is_behind()
        await publisher.flushed(["a"])
        assert not publisher.is_behind()
        task.cancel()

    asyncio.run(scenario())
