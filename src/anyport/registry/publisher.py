# SPDX-License-Identifier: Apache-2.0
"""What this host says in the registry: one place holds the wish, one task writes the difference.

Every key is beneath the host's own prefix and carries its lease, so that a
host that dies withdraws itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from anyport.errors import RegistryError
from anyport.registry.base import Delete, Put, Registry, Write

log = logging.getLogger(__name__)

BATCH = 128  # operations in one transaction: etcd's default limit
BATCH_BYTES = 1 << 20  # or so; of 1.5 MiB that etcd takes by default
RETRY_SECONDS = 0.5
_UNKNOWN = b"\x00"  # equals no value: what the registry has for a key after a failed write


class Publisher:
    """Keeps the registry equal to what was last asked for, in batches, in order of asking.

    One transaction is in flight at a time: two writes of one key cannot
    overtake each other, and whatever comes meanwhile joins the next batch.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lease = 0
        self._want: dict[str, bytes] = {}
        self._have: dict[str, bytes] = {}
        self._dirty: dict[str, None] = {}
        self._in_flight: Mapping[str, bytes | None] = {}
        self._meanwhile: dict[str, tuple[int, bytes | None]] = {}
        """Of keys in flight: what was heard, and as of which revision."""
        self._heard = 0
        self._ahead: dict[str, int] = {}
        """Revisions, above `_heard`, of our last writes of these keys; the oldest first."""
        self._owed: set[str] = set()
        self._wake = asyncio.Event()
        self._written = asyncio.Condition()
        self.failing_since: float | None = None

    def set(self, key: str, value: bytes) -> None:
        self._want[key] = value
        self._mark(key)

    def delete(self, key: str) -> None:
        """Deleting what was never set is no work."""
        self._want.pop(key, None)
        self._mark(key)

    def wanted(self, key: str) -> bytes | None:
        return self._want.get(key)

    def lease_renewed(self, lease: int, surviving: Mapping[str, bytes]) -> None:
        """A (new) lease holds: of our keys the registry has only `surviving`, write the rest."""
        self._lease = lease
        self._have = dict(surviving)
        self._heard = 0  # the store may be another
        self._ahead.clear()
        for key in {**self._have, **self._want}:
            self._mark(key)
        self.owe()

    def owe(self) -> None:
        """What waits now is all that this host has, or much of it: `is_behind` until it is said."""
        self._owed |= self._dirty.keys()

    def is_behind(self) -> bool:
        """What comes one by one, while all else has been said, is no reason to be."""
        self._owed = {key for key in self._owed if self._have.get(key) != self._want.get(key)}
        return bool(self._owed)

    def heard(self, said: Mapping[str, bytes | None], revision: int) -> None:
        """As of `revision` the registry has these; None: it does not have that key.

        A write that timed out may have taken effect after the next one of its
        key (etcd.EtcdRegistry). Of what is on its way nothing is known yet; and
        what was so before our last write is an echo of those before: were it
        answered, that would make an echo again.
        """
        self._heard = revision
        while self._ahead and self._ahead[first := next(iter(self._ahead))] <= revision:
            del self._ahead[first]
        for key, value in said.items():
            if key in self._in_flight:
                self._meanwhile[key] = revision, value
            elif key not in self._ahead:
                self._compare(key, value)

    def correct(self, seen: Mapping[str, bytes]) -> None:
        """The registry has only `seen`, some time after it was written: as `heard`, of whatever
        was not. What is on its way just now is written twice."""
        for key in {**seen, **self._want}:
            self._compare(key, seen.get(key))

    async def flushed(self, keys: Iterable[str]) -> None:
        """Waits until the registry has what is wanted for `keys`."""
        waiting = tuple(keys)
        async with self._written:
            await self._written.wait_for(
                lambda: all(self._have.get(k) == self._want.get(k) for k in waiting)
            )

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._lease and (batch := self._batch()):
                await self._write(batch)

    def _mark(self, key: str) -> None:
        # Equal, but a write of this key is in flight: _settle() marks it again.
        if self._have.get(key) != self._want.get(key):
            self._dirty[key] = None
            self._wake.set()

    def _batch(self) -> dict[str, bytes | None]:
        batch: dict[str, bytes | None] = {}
        size, due = 0, self._due()
        while due and len(batch) < BATCH and size < BATCH_BYTES:
            key = next(iter(due))
            del due[key]
            self._dirty.pop(key, None)
            value = self._want.get(key)
            if self._have.get(key) != value:
                batch[key] = value
                size += len(value or b"")
        return batch

    def _due(self) -> dict[str, None]:
        """While writes fail, deletions first and alone: an etcd without space takes those."""
        if self.failing_since is None:
            return self._dirty
        gone = (key for key in self._dirty if key in self._have and key not in self._want)
        return dict.fromkeys(gone) or self._dirty

    async def _write(self, batch: Mapping[str, bytes | None]) -> None:
        lease = self._lease
        writes: list[Write] = [
            Delete(key) if value is None else Put(key, value, lease) for key, value in batch.items()
        ]
        self._in_flight = batch
        try:
            revision = await self._registry.write(writes)
        except RegistryError as error:
            self._failed(error, batch)
            await asyncio.sleep(RETRY_SECONDS)
            return
        if self.failing_since is not None:
            log.info("registry: writes succeed again")
            self.failing_since = None
        if lease == self._lease:
            self._settle(batch, revision)
        self._land()
        async with self._written:
            self._written.notify_all()

    def _settle(self, batch: Mapping[str, bytes | None], revision: int) -> None:
        for key, value in batch.items():
            if value is None:
                self._have.pop(key, None)
            else:
                self._have[key] = value
            # Asked for again while the write was in flight: `_mark` may have
            # compared with what the registry had before it.
            self._mark(key)
            heard, other = self._meanwhile.get(key, (0, None))
            if heard > revision:
                self._compare(key, other)
            if revision > self._heard:
                self._ahead.pop(key, None)
                self._ahead[key] = revision

    def _compare(self, key: str, value: bytes | None) -> None:
        """The registry has `value`; if that is not what was written last, it is written anew."""
        if self._have.get(key) != value:
            self._have[key] = _UNKNOWN
            self._mark(key)

    def _land(self) -> None:
        self._in_flight = {}
        self._meanwhile.clear()

    def _failed(self, error: RegistryError, batch: Mapping[str, bytes | None]) -> None:
        self._land()
        # The write may have happened all the same: repeat it, deletions too.
        for key in batch:
            self._have[key] = _UNKNOWN
            self._dirty[key] = None
        self._wake.set()
        if self.failing_since is None:
            self.failing_since = asyncio.get_running_loop().time()
            log.warning("registry: cannot write %d keys, retrying: %s", len(batch), error)
