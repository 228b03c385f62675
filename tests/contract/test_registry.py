# SPDX-License-Identifier: Apache-2.0
"""One suite for every Registry: the memory store is held to what etcd does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from anyport.errors import Compacted, Conflict, LeaseGone
from anyport.registry.base import Changes, Delete, Deleted, Entry, Put, Registry, Unchanged
from tests.contract.conftest import Store, Watching

pytestmark = pytest.mark.anyio

Watch = Callable[[str, int], Watching]


@pytest.fixture
async def watch(registry: Registry) -> AsyncIterator[Watch]:
    started: list[Watching] = []

    def start(prefix: str, after: int) -> Watching:
        started.append(Watching(registry, prefix, after))
        return started[-1]

    yield start
    for watching in started:
        await watching.stop()


def _keys(batches: list[Changes]) -> list[str]:
    return [change.key for batch in batches for change in batch.changes]


async def test_a_listing_shows_what_was_written(registry: Registry) -> None:
    first = await registry.write([Put("/a/1", b"one"), Put("/b/1", b"other")])
    second = await registry.write([Put("/a/2", b"two")])
    third = await registry.write([Put("/a/1", b"uno")])
    listing = await registry.list("/a/")
    assert listing.revision == third
    assert listing.entries == (
        Entry("/a/1", b"uno", first, third),
        Entry("/a/2", b"two", second, second),
    )


async def test_a_listing_of_nothing_has_a_revision_to_watch_from(
    registry: Registry, watch: Watch
) -> None:
    listing = await registry.list("/a/")
    assert listing.entries == ()
    watching = watch("/a/", listing.revision)
    revision = await registry.write([Put("/a/1", b"one")])
    assert await watching.next() == Changes(revision, (Entry("/a/1", b"one", revision, revision),))


async def test_a_prefix_does_not_take_in_its_neighbours(registry: Registry) -> None:
    await registry.write([Put("/a/1", b""), Put("/a", b""), Put("/a0", b""), Put("/b/1", b"")])
    assert [entry.key for entry in (await registry.list("/a/")).entries] == ["/a/1"]


async def test_a_listing_of_several_pages_is_whole_and_in_order(registry: Registry) -> None:
    keys = [f"/a/{number:05}" for number in range(2500)]
    for start in range(0, len(keys), 128):
        await registry.write([Put(key, b"x" * 100) for key in keys[start : start + 128]])
    assert [entry.key for entry in (await registry.list("/a/")).entries] == keys


async def test_pages_are_of_one_revision(registry: Registry, store: Store) -> None:
    """A transaction that touches the first and the last page is seen whole or not at all."""
    keys = [f"/a/{number:05}" for number in range(2500)]
    for start in range(0, len(keys), 128):
        await registry.write([Put(key, b"0") for key in keys[start : start + 128]])
    writer = store.client()

    async def write() -> None:
        for number in range(100):
            value = str(number).encode()
            await writer.write([Put(keys[0], value), Put(keys[-1], value)])

    writing = asyncio.ensure_future(write())
    while not writing.done():
        entries = (await registry.list("/a/")).entries
        assert entries[0].value == entries[-1].value
        await asyncio.wait({writing}, timeout=0)
    await writing
    await writer.close()


async def test_a_watch_shows_what_came_after_its_revision(registry: Registry, watch: Watch) -> None:
    await registry.write([Put("/a/0", b"before")])
    after = await registry.write([Put("/a/1", b"before")])
    created = await registry.write([Put("/a/2", b"after"), Put("/b/1", b"not ours")])
    deleted = await registry.write([Delete("/a/1")])
    watching = watch("/a/", after)
    batches = await watching.until(deleted)
    assert [change for batch in batches for change in batch.changes] == [
        Entry("/a/2", b"after", created, created),
        Deleted("/a/1"),
    ]
    live = await registry.write([Put("/a/1", b"again")])
    assert await watching.next() == Changes(live, (Entry("/a/1", b"again", live, live),))


async def test_a_watch_does_not_split_a_transaction(registry: Registry, watch: Watch) -> None:
    after = (await registry.list("/a/")).revision
    watching = watch("/a/", after)
    keys = [f"/a/{number:03}" for number in range(128)]
    revision = await registry.write([Put(key, b"x") for key in keys])
    batch = await watching.next()
    assert batch.revision == revision
    assert [change.key for change in batch.changes] == keys


async def test_a_watch_brings_a_burst_of_more_than_one_message(
    registry: Registry, watch: Watch
) -> None:
    """12 MB that wait at once: etcd sends at most 1.5 MB in a message, in fragments."""
    after = (await registry.list("/a/")).revision
    keys = [f"/a/{number:05}" for number in range(400)]
    revisions = [await registry.write([Put(key, b"x" * 30_000)]) for key in keys]
    assert _keys(await watch("/a/", after).until(revisions[-1])) == keys


async def test_fragments_of_a_burst_do_not_split_a_transaction(
    registry: Registry, watch: Watch
) -> None:
    """Of ten transactions of 0.6 MB that wait at once, a 1.5 MB message ends within one."""
    after = (await registry.list("/a/")).revision
    wrote = {}
    for number in range(10):
        keys = [f"/a/{number}/{part}" for part in range(20)]
        wrote[await registry.write([Put(key, b"x" * 30_000) for key in keys])] = keys
    for batch in await watch("/a/", after).until(max(wrote)):
        revisions = [r for r in wrote if after < r <= batch.revision]
        assert _keys([batch]) == [key for r in revisions for key in wrote[r]]
        after = batch.revision


async def test_two_clients_see_the_same(registry: Registry, store: Store) -> None:
    other = store.client()
    watching = Watching(other, "/a/", (await registry.list("/a/")).revision)
    revision = await registry.write([Put("/a/1", b"one")])
    assert (await watching.next()).revision == revision
    assert await other.list("/a/") == await registry.list("/a/")
    await watching.stop()
    await other.close()


async def test_a_watch_behind_a_compaction_raises_compacted(
    registry: Registry, store: Store, watch: Watch
) -> None:
    after = await registry.write([Put("/a/1", b"one")])
    await registry.write([Put("/a/1", b"two")])
    store.compact(await registry.write([Put("/a/1", b"three")]))
    with pytest.raises(Compacted):
        await watch("/a/", after).next()


async def test_a_compaction_does_not_swallow_the_deletion_at_its_revision(
    registry: Registry, store: Store, watch: Watch
) -> None:
    after = await registry.write([Put("/a/1", b"one")])
    store.compact(await registry.write([Delete("/a/1")]))
    with pytest.raises(Compacted):
        await watch("/a/", after).next()


async def test_a_watch_from_the_compacted_revision_goes_on(
    registry: Registry, store: Store, watch: Watch
) -> None:
    after = await registry.write([Put("/a/1", b"one")])
    store.compact(after)
    watching = watch("/a/", after)
    revision = await registry.write([Delete("/a/1")])
    assert await watching.next() == Changes(revision, (Deleted("/a/1"),))


async def test_a_watch_from_a_revision_the_store_never_had_raises_compacted(
    registry: Registry, watch: Watch
) -> None:
    """The store was emptied: waiting for that revision could take for ever."""
    revision = await registry.write([Put("/a/1", b"one")])
    with pytest.raises(Compacted):
        await watch("/a/", revision + 1000).next()


async def test_a_conflict_leaves_nothing(registry: Registry) -> None:
    revision = await registry.write([Put("/a/1", b"one")])
    with pytest.raises(Conflict, match="/a/1"):
        await registry.write(
            [Put("/a/1", b"two"), Put("/a/2", b"two")], [Unchanged("/a/1", revision - 1)]
        )
    listing = await registry.list("/a/")
    assert listing.revision == revision
    assert listing.entries == (Entry("/a/1", b"one", revision, revision),)


async def test_of_two_creators_one_wins(registry: Registry) -> None:
    async def create(value: bytes) -> bool:
        try:
            await registry.write([Put("/a/1", value)], [Unchanged("/a/1", 0)])
        except Conflict:
            return False
        return True

    outcomes = await asyncio.gather(*(create(str(number).encode()) for number in range(10)))
    assert outcomes.count(True) == 1
    (entry,) = (await registry.list("/a/")).entries
    assert entry.value == str(outcomes.index(True)).encode()


async def test_requirements_that_hold_let_the_write_happen(registry: Registry) -> None:
    revision = await registry.write([Put("/a/1", b"one")], [Unchanged("/a/1", 0)])
    newer = await registry.write(
        [Put("/a/1", b"two")], [Unchanged("/a/1", revision), Unchanged("/a/2", 0)]
    )
    assert newer == revision + 1


async def test_a_recreated_key_has_a_new_create_revision(registry: Registry) -> None:
    await registry.write([Put("/a/1", b"one")])
    await registry.write([Delete("/a/1")])
    revision = await registry.write([Put("/a/1", b"one")])
    (entry,) = (await registry.list("/a/")).entries
    assert entry.create_revision == revision


async def test_deleting_what_is_absent_is_success_and_changes_nothing(registry: Registry) -> None:
    before = (await registry.list("/a/")).revision
    assert await registry.write([Delete("/a/1")]) == 0
    assert (await registry.list("/a/")).revision == before


async def test_128_operations_are_allowed(registry: Registry) -> None:
    keys = [f"/a/{number:03}" for number in range(128)]
    await registry.write([Put(key, b"") for key in keys], [Unchanged(key, 0) for key in keys])
    assert len((await registry.list("/a/")).entries) == 128


async def test_more_operations_are_refused(registry: Registry) -> None:
    with pytest.raises(ValueError, match="129 operations"):
        await registry.write([Put(f"/a/{number}", b"") for number in range(129)])
    with pytest.raises(ValueError, match="129 operations"):
        await registry.write([], [Unchanged(f"/a/{number}", 0) for number in range(129)])
    assert (await registry.list("/a/")).entries == ()


async def test_two_writes_of_one_key_are_refused(registry: Registry) -> None:
    with pytest.raises(ValueError, match="one key"):
        await registry.write([Put("/a/1", b"one"), Delete("/a/1")])


async def test_an_expired_lease_takes_its_keys_along(
    registry: Registry, store: Store, watch: Watch
) -> None:
    lease = await registry.grant(1)
    kept = await registry.write([Put("/a/kept", b"")])
    revision = await registry.write([Put("/a/1", b"", lease), Put("/a/2", b"", lease)])
    watching = watch("/a/", revision)
    store.let_expire(1)
    gone = await watching.next()
    assert sorted(change.key for change in gone.changes) == ["/a/1", "/a/2"]
    assert all(isinstance(change, Deleted) for change in gone.changes)
    assert (await registry.list("/a/")).entries == (Entry("/a/kept", b"", kept, kept),)
    assert await registry.keep_alive(lease) == 0


async def test_a_lease_that_is_kept_alive_has_its_time_again(registry: Registry) -> None:
    lease = await registry.grant(60)
    assert await registry.keep_alive(lease) == 60


async def test_a_revoked_lease_takes_its_keys_along(registry: Registry, watch: Watch) -> None:
    lease = await registry.grant(60)
    revision = await registry.write([Put("/a/1", b"", lease)])
    (entry,) = (await registry.list("/a/")).entries
    assert entry.lease == lease
    watching = watch("/a/", revision)
    await registry.revoke(lease)
    assert (await watching.next()).changes == (Deleted("/a/1"),)
    await registry.revoke(lease)


async def test_a_key_put_without_its_lease_outlives_it(registry: Registry) -> None:
    lease = await registry.grant(60)
    await registry.write([Put("/a/1", b"", lease)])
    await registry.write([Put("/a/1", b"")])
    await registry.revoke(lease)
    assert len((await registry.list("/a/")).entries) == 1


async def test_a_write_under_a_lease_that_is_gone_leaves_nothing(registry: Registry) -> None:
    lease = await registry.grant(60)
    await registry.revoke(lease)
    with pytest.raises(LeaseGone):
        await registry.write([Put("/a/1", b""), Put("/a/2", b"", lease)])
    assert (await registry.list("/a/")).entries == ()
    assert await registry.keep_alive(lease) == 0


async def test_a_thread_writes(registry: Registry, watch: Watch) -> None:
    lease = await registry.grant(60)
    watching = watch("/a/", (await registry.list("/a/")).revision)
    renewer = registry.renewer()
    for _ in range(2):  # the same again is a change, too
        renewer.put(Put("/a/1", b"one", lease), 5)
        batch = await watching.next()
        [change] = batch.changes
        assert isinstance(change, Entry)
        assert (change.value, change.mod_revision, change.lease) == (b"one", batch.revision, lease)
    await registry.revoke(lease)
    with pytest.raises(LeaseGone):
        renewer.put(Put("/a/1", b"one", lease), 5)
    renewer.close()
