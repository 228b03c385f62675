# SPDX-License-Identifier: Apache-2.0
"""A registry in memory, for unit tests: several clients on one store, with etcd's semantics.

tests/contract holds it to what etcd does.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import count

from anyport.errors import Compacted, Conflict, LeaseGone, RegistryUnavailable
from anyport.registry import transaction
from anyport.registry.base import (
    Change,
    Changes,
    Delete,
    Deleted,
    Entry,
    Listing,
    Put,
    Unchanged,
    Write,
)


class MemoryRegistry:
    """`registry.base.Registry`: one client of `store` (default: of a store of its own)."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()

    async def list(self, prefix: str) -> Listing:
        self.store.check_reach()
        entries = self.store.entries
        keys = sorted(key for key in entries if key.startswith(prefix))
        found = tuple(entries[key] for key in keys)
        return Listing(self.store.revision, found, self.store.identity)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Changes, None]:
        store = self.store
        while True:
            moved = store.moved
            changes = store.next_after(after)
            if changes is None:
                await moved.wait()
                continue
            after = changes.revision
            if ours := tuple(c for c in changes.changes if c.key.startswith(prefix)):
                yield Changes(after, ours)

    async def write(self, writes: Sequence[Write], require: Sequence[Unchanged] = ()) -> int:
        transaction.check(writes, require)
        self.store.check_reach()
        self.store.check_transaction(writes, require)
        return self.store.apply(writes)

    async def grant(self, ttl: int) -> int:
        self.store.check_reach()
        return self.store.grant(ttl)

    async def keep_alive(self, lease: int) -> int:
        self.store.check_reach()
        return self.store.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        self.store.check_reach()
        self.store.revoke(lease)

    def renewer(self) -> MemoryRenewer:
        return MemoryRenewer(self.store)

    async def close(self) -> None:
        pass


class MemoryRenewer:
    """`registry.base.Renewer`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def keep_alive(self, lease: int, timeout: float) -> int:
        self._store.check_reach()
        return self._store.keep_alive(lease)

    def put(self, put: Put, timeout: float) -> None:
        self._store.check_reach()
        self._store.check_transaction([put], ())
        self._store.apply([put])

    def close(self) -> None:
        pass


@dataclass(slots=True)
class _Lease:
    ttl: int
    expires: float


class MemoryStore:
    """What the clients share. Its clock stands still but for `advance`."""

    def __init__(self, identity: int = 1) -> None:
        self.identity = identity
        self.entries: dict[str, Entry] = {}
        self.revision = 1
        self.moved = asyncio.Event()
        """Set once: at the next change of contents, history or reach."""
        self._history: list[Changes] = []
        self._compacted = 0
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = count(1)
        self._now = 0.0
        self._in_reach = True

    def advance(self, seconds: float) -> None:
        """Let time pass: leases expire."""
        self._now += seconds
        for lease in [i for i, lease in self._leases.items() if lease.expires <= self._now]:
            self.revoke(lease)

    def compact(self) -> None:
        """Forget what led to the present revision."""
        self._compacted = self.revision
        self._history.clear()
        self._wake()

    def lose(self) -> None:
        """Go out of reach: calls and watches raise RegistryUnavailable, until `recover`."""
        self._in_reach = False
        self._wake()

    def recover(self) -> None:
        self._in_reach = True

    def check_reach(self) -> None:
        if not self._in_reach:
            raise RegistryUnavailable("the memory store is out of reach")

    def check_transaction(self, writes: Sequence[Write], require: Sequence[Unchanged]) -> None:
        """Raises Conflict and LeaseGone."""
        for requirement in require:
            entry = self.entries.get(requirement.key)
            if (entry.mod_revision if entry else 0) != requirement.mod_revision:
                raise Conflict(f"changed meanwhile: {requirement.key}")
        for write in writes:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise LeaseGone(f"lease {write.lease} not found")

    def apply(self, writes: Sequence[Write]) -> int:
        """One revision for all of `writes`; 0 if they change nothing."""
        revision = self.revision + 1
        changes = tuple(c for write in writes if (c := self._apply(write, revision)))
        if not changes:
            return 0
        self.revision = revision
        self._history.append(Changes(revision, changes))
        self._wake()
        return revision

    def next_after(self, revision: int) -> Changes | None:
        """The changes of the first revision above `revision`; None if there is none yet."""
        self.check_reach()
        if not self._compacted <= revision <= self.revision:
            raise Compacted(f"revision {revision} is gone: compacted at {self._compacted}")
        index = bisect_right(self._history, revision, key=lambda changes: changes.revision)
        return self._history[index] if index < len(self._history) else None

    def grant(self, ttl: int) -> int:
        lease = next(self._lease_ids)
        self._leases[lease] = _Lease(ttl, self._now + ttl)
        return lease

    def keep_alive(self, lease: int) -> int:
        if lease not in self._leases:
            return 0
        self._leases[lease].expires = self._now + self._leases[lease].ttl
        return self._leases[lease].ttl

    def revoke(self, lease: int) -> None:
        if self._leases.pop(lease, None):
            self.apply([Delete(key) for key, e in self.entries.items() if e.lease == lease])

    def _apply(self, write: Write, revision: int) -> Change | None:
        if isinstance(write, Delete):
            return Deleted(write.key) if self.entries.pop(write.key, None) else None
        old = self.entries.get(write.key)
        created = old.create_revision if old else revision
        entry = Entry(write.key, write.value, created, revision, write.lease)
        self.entries[write.key] = entry
        return entry

    def _wake(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()
