# SPDX-License-Identifier: Apache-2.0
"""The registry's contents as a model.Cluster, kept current, and what changed in it.

List, mark listed, watch from that revision; after a loss list again and
compare, so that consumers hear exactly what changed meanwhile.

A value that does not parse is skipped and reported, once for whoever says such
(registry.unreadable). If it replaces a good one, then

- of claims, voids and candidacies the good one goes too: who owns a block or is
  elected must be one answer on every host, whatever a host saw earlier;
- of all others the good one stays until its key is deleted: an unreadable
  definition, host or listener is no wish to withdraw it, and withdrawing cuts
  connections.

A store that takes the place of the one before, empty or out of a backup, says
nothing of what is in force. Its hosts say again what they have: until they
have, the mirror shows what it showed; some of it stays (registry.kept).

Of a host whose heartbeat stands still nothing is shown that goes with its
lease, whoever keeps that alive (registry.heartbeats).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace

from anyport.errors import RegistryError
from anyport.model import Claim, Cluster, Heartbeat
from anyport.registry.base import Change, Deleted, Entry, Listing, Registry, Unchanged
from anyport.registry.heartbeats import Heartbeats
from anyport.registry.kept import Kept, NewStore, is_of_another_store, missing
from anyport.registry.keys import (
    PREFIX,
    CandidacyKey,
    ClaimKey,
    DefinitionKey,
    DrainKey,
    HeartbeatKey,
    HostKey,
    Key,
    VoidKey,
    host_prefix,
)
from anyport.registry.limits import MOST, Limits
from anyport.registry.tables import MOST_LISTENERS, Tables
from anyport.registry.touched import Subscription, Touched
from anyport.registry.unreadable import Unreadable
from anyport.registry.values import Noun
from anyport.registry.words import Word, age, leased, read, read_all

log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0

SETTLE_SECONDS = 10.0
"""What hosts have to say again what they had said in a store that is gone: time to find that out
(a connection attempt a second), and to write 65,535 listeners."""

_STILL = "its heartbeat stands still, though its lease is kept alive: taken for gone"
_TOO_MANY = "its host says too many of these"
_BACK = "its heartbeat is back, or its lease is gone"


class Mirror:
    """One per daemon; `run` keeps it current. Changes happen between awaits of its consumers.

    `first_pause`: seconds before a second attempt to list, doubled for each
    further one up to LONGEST_PAUSE. `settle`: seconds that a store which took
    the place of another has, to be what that one was. `clock`: seconds, for
    `stale_since`. `most_listeners`, and `most` of other kinds: of one host; more are skipped and
    reported.
    `reader`: the host that it is for, whose heartbeats the others' are counted in; without one,
    leases alone say who is there.
    """

    def __init__(
        self,
        registry: Registry,
        prefix: str = PREFIX,
        *,
        first_pause: float = 0.1,
        settle: float = SETTLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        most_listeners: int = MOST_LISTENERS,
        most: Mapping[type[Key], int] = MOST,
        reader: str = "",
    ) -> None:
        self._registry = registry
        self._prefix = prefix
        self._first_pause = self._pause = first_pause
        self._settle = settle
        self._clock = clock
        self._store = 0
        self._kept = Kept(clock)
        self._entries: dict[str, Entry] = {}
        self.unreadable = Unreadable()
        self._tables = Tables(most_listeners)
        self._limits = Limits(most)
        self._reader = reader
        self._heartbeats = Heartbeats(reader)
        self._subscriptions: list[Subscription] = []
        self._advanced = asyncio.Event()  # set once, at the next advance
        self.cluster: Cluster = self._tables.cluster(0)
        self.listed = False
        """Whether there was a complete listing; before it the cluster is not known."""
        self.stale_since: float | None = clock()
        """When the registry was lost, by `clock`; None: what is shown is current."""
        self._new: NewStore | None = None
        self.on_replaced: Callable[[], None] = lambda: None
        """Called when `settling` begins, and again if that store was lost meanwhile."""
        self.on_own: Callable[[Mapping[str, bytes | None], int], None] = lambda said, revision: None
        """Called with what has changed, up to a revision, of what goes with the reader's lease: key
        -> value, or None. Not when it went with the lease."""

    @property
    def settling(self) -> bool:
        """The store is another; what is shown was in the one before. Hosts say again what they
        have, and nothing new."""
        return self._new is not None

    @property
    def emptied(self) -> bool:
        """Whether definitions are in force that went with their store, not deleted by anybody."""
        return self._kept.has_definitions

    @property
    def lost_drains(self) -> frozenset[str]:
        """Hosts that were drained in a store that is gone, and have not been drained since."""
        return frozenset(self._kept.lost_drains)

    @property
    def silent(self) -> frozenset[str]:
        """Hosts that are taken for gone although their leases live."""
        return self._heartbeats.silent

    def absence(self, host: str) -> Unchanged:
        """What holds in the registry as long as a host that is not shown stays away."""
        heartbeat = self._entries.get(str(HeartbeatKey(host)))
        if host in self.silent and heartbeat is not None:
            return Unchanged(heartbeat.key, heartbeat.mod_revision)
        return Unchanged(str(HostKey(host)), 0)

    def said_by(self, host: str) -> dict[str, bytes]:
        """Key -> value of what goes with its lease, but for its heartbeat."""
        prefix, heartbeat = host_prefix(host), str(HeartbeatKey(host))
        return {
            key: entry.value
            for key, entry in self._entries.items()
            if entry.lease and key != heartbeat and key.startswith(prefix)
        }

    @property
    def connected(self) -> bool:
        return self.stale_since is None

    def lost_claims(self) -> list[Claim]:
        """Those that went with their store, and their hosts were not there to say them again."""
        return self._kept.claims(self.cluster)

    def subscribe(self) -> Subscription:
        """Each consumer needs its own. It begins with all there is, as `first`, once listed."""
        subscription = Subscription()
        self._subscriptions.append(subscription)
        if self.listed:
            subscription.add(self._tables.everything())
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)

    async def caught_up(self, revision: int) -> None:
        """Waits until the cluster shows `revision`, to read one's own write.

        For ever, if the store was emptied before the mirror got there: give it a timeout.
        """
        while not self.listed or self.cluster.revision < revision:
            await self._advanced.wait()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                listing = await self._registry.list(self._prefix)
                if self._is_of_another_store(listing):
                    listing = await self._settled(listing)
                await self._relist(listing)
                await self._follow()
            except RegistryError as error:
                self._lost(error)
            # Not in step with the other hosts, who lost it at the same moment.
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _follow(self) -> None:
        async with aclosing(self._registry.watch(self._prefix, self.cluster.revision)) as batches:
            async for batch in batches:
                await self._apply(batch.changes, batch.revision)
                self._pause = self._first_pause

    def _is_of_another_store(self, listing: Listing) -> bool:
        return self.listed and is_of_another_store(
            listing, self._store, self.cluster.revision, self._entries
        )

    async def _settled(self, listing: Listing) -> Listing:
        """What the store has once it has all that hosts had said, or has had the time for that."""
        if self._new is not None and self._new.is_still(listing):
            self._new.relist(listing)
        else:
            log.error(
                "registry: another store than before, emptied or restored; what is in force stays"
            )
            self._new = NewStore(listing, self._entries)
        new = self._new
        self.on_replaced()
        with suppress(TimeoutError):  # from now on: out of reach, hosts could not say anything
            async with asyncio.timeout(self._settle):
                await self._fill(new)
        for key, noun in self._kept.keep(new, self._entries, self.cluster).items():
            self._tables.set(key, noun, Touched())
        return new.listing()

    async def _fill(self, new: NewStore) -> None:
        """Watched, not listed from time to time: what is said and withdrawn leaves no trace."""
        async with aclosing(self._registry.watch(self._prefix, new.revision)) as batches:
            while not new.is_complete:
                new.add(await anext(batches))

    async def _relist(self, listing: Listing) -> None:
        if self.stale_since is not None:
            log.info("registry: %d keys listed", len(listing.entries))
        self.stale_since = None
        self._new = None
        self._store = listing.store
        changes: list[Change] = [
            Deleted(key) for key in missing(listing, self._entries) - self._kept.keys
        ]
        changes += (e for e in listing.entries if self._entries.get(e.key) != e)
        await self._apply(changes, listing.revision)

    def _lost(self, error: RegistryError) -> None:
        if self.stale_since is None:
            self.stale_since = self._clock()
            log.warning("registry: lost, listing again: %s", error)

    async def _apply(self, changes: Iterable[Change], revision: int) -> None:
        words = await read_all(changes)
        touched = Touched(first=not self.listed)
        for word in words:
            self._apply_one(word, touched)
        self._hear(words, touched)
        self._tell_own(words, revision)
        self._end_offices(touched)
        self.cluster = self._tables.cluster(revision)
        self.listed = True
        if touched:
            for subscription in self._subscriptions:
                subscription.add(touched)
        self._advanced.set()
        self._advanced = asyncio.Event()

    def _tell_own(self, words: Iterable[Word], revision: int) -> None:
        own = leased(words, self._reader) if self._reader else {}
        if own and str(HostKey(self._reader)) in self._entries:
            self.on_own(own, revision)

    def _end_offices(self, touched: Touched) -> None:
        """Heartbeats come all the time, and this with them."""
        for key in self._kept.ended_offices():
            log.warning("vip %s: %s has not taken office again", key.vip, key.host)
            self._apply_one(read(Deleted(str(key))), touched)

    def _hear(self, words: Iterable[Word], touched: Touched) -> None:
        beats = {
            word.key.host: word.noun if isinstance(word.noun, Heartbeat) else None
            for word in words
            if isinstance(word.key, HeartbeatKey)
        }
        if not beats:
            return
        before = self.silent
        self._heartbeats.hear(beats)
        for host in before ^ self.silent:
            log.warning("host %s: %s", host, _STILL if host in self.silent else _BACK)
            self._show(host, touched)

    def _show(self, host: str, touched: Touched) -> None:
        """All that goes with the host's lease, or nothing of it."""
        prefix = host_prefix(host)
        for entry in [e for k, e in self._entries.items() if e.lease and k.startswith(prefix)]:
            word = read(entry)
            if word.key is None or not self._tables.has_room(word.key):
                continue
            if word.noun is not None:
                self._show_one(word.key, entry, word.noun, touched)
            else:
                self._tables.set(word.key, None, touched)

    def _apply_one(self, word: Word, touched: Touched) -> None:
        change, key, noun = word.change, word.key, word.noun
        old = self._entries.pop(change.key, None)
        self._kept.heard(key, change)
        if key is None:  # a later version's, or not ours
            return
        if isinstance(change, Deleted):
            self.unreadable.discard(key)
            self._tables.set(key, None, touched)
            self._show_others(self._limits.drop(key), touched)
        elif noun is not None and self._tables.has_room(key):
            self._entries[change.key] = change
            others = self._limits.put(key, age(key, change))
            self._show_one(key, change, noun, touched)
            self._show_others(others, touched)
        else:
            self.unreadable.add(key, word.fault or _TOO_MANY)
            self._entries[change.key] = replace(change, value=b"")  # it may be a large one
            if not _keeps_last_good(key, old, change):
                self._tables.set(key, None, touched)
                self._show_others(self._limits.drop(key), touched)

    def _show_one(self, key: Key, entry: Entry, noun: Noun, touched: Touched) -> None:
        """If its host is there, and may say that much."""
        if not self._limits.allow(key):
            self.unreadable.add(key, _TOO_MANY)
            self._tables.skip(key, noun, touched)
            return
        self.unreadable.discard(key)
        gone = entry.lease and _speaker(key) in self.silent
        self._tables.set(key, None if gone else noun, touched)

    def _show_others(self, keys: Iterable[str], touched: Touched) -> None:
        """They count now, or no more, as another of their host came or went."""
        for entry in map(self._entries.__getitem__, keys):
            word = read(entry)
            if word.key is not None and word.noun is not None:
                self._show_one(word.key, entry, word.noun, touched)


def _speaker(key: Key) -> str:
    """Empty: the operator."""
    return "" if isinstance(key, DefinitionKey | DrainKey) else key.host


def _keeps_last_good(key: Key, old: Entry | None, new: Entry) -> bool:
    """See the module's docstring. A recreated key was deleted in between, seen or not."""
    recreated = old is None or old.create_revision != new.create_revision
    return not recreated and not isinstance(key, ClaimKey | CandidacyKey | VoidKey)
