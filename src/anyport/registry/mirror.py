# SPDX-License-Identifier: Apache-2.0
"""The registry's contents as a model.Cluster, kept current, and what changed in it.

List, mark listed, watch from that revision; after a loss list again and
compare, so that consumers hear exactly what changed meanwhile.

A value that does not parse is reported once and skipped. If it replaces a good
one, then

- of claims and candidacies the good one goes too: who owns a block or is
  elected must be one answer on every host, whatever a host saw earlier;
- of all others the good one stays until its key is deleted: an unreadable
  definition, host or listener is no wish to withdraw it, and withdrawing cuts
  connections.

When everything is gone the mirror tells that too. `emptied` says whether
somebody deleted it or the store has lost it; what to make of that is its
consumers' business.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing

from anyport.errors import RegistryError
from anyport.model import Cluster
from anyport.registry.base import Change, Deleted, Entry, Listing, Registry
from anyport.registry.keys import PREFIX, CandidacyKey, ClaimKey, DefinitionKey, Key, parse
from anyport.registry.tables import Tables
from anyport.registry.touched import Subscription, Touched
from anyport.registry.values import Noun, decode

log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0


class Mirror:
    """One per daemon; `run` keeps it current. Changes happen between awaits of its consumers.

    `first_pause`: seconds before a second attempt to list, doubled for each
    further one up to LONGEST_PAUSE. `clock`: seconds, for `stale_since`.
    """

    def __init__(
        self,
        registry: Registry,
        prefix: str = PREFIX,
        *,
        first_pause: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._prefix = prefix
        self._first_pause = self._pause = first_pause
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._unreadable: set[str] = set()
        self._tables = Tables()
        self._subscriptions: list[Subscription] = []
        self._advanced = asyncio.Event()  # set once, at the next advance
        self.cluster: Cluster = self._tables.cluster(0)
        self.listed = False
        """Whether there was a complete listing; before it the cluster is not known."""
        self.stale_since: float | None = clock()
        """When the registry was lost, by `clock`; None: what is shown is current."""
        self.emptied = False
        """Whether the definitions were lost with their store, not deleted; till there is one.

        The store has gone back to an earlier revision (a new or restored data
        directory) and has none. Hosts may be in it again: they say so themselves.
        """

    @property
    def connected(self) -> bool:
        return self.stale_since is None

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
                self._relist(await self._registry.list(self._prefix))
                await self._follow()
            except RegistryError as error:
                self._lost(error)
            # Not in step with the other hosts, who lost it at the same moment.
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _follow(self) -> None:
        async with aclosing(self._registry.watch(self._prefix, self.cluster.revision)) as batches:
            async for batch in batches:
                self._apply(batch.changes, batch.revision)
                self._pause = self._first_pause

    def _relist(self, listing: Listing) -> None:
        if self.stale_since is not None:
            log.info("registry: %d keys listed", len(listing.entries))
        self.stale_since = None
        self._note_emptied(listing)
        gone = self._entries.keys() - {entry.key for entry in listing.entries}
        changes: list[Change] = [Deleted(key) for key in gone]
        changes += (e for e in listing.entries if self._entries.get(e.key) != e)
        self._apply(changes, listing.revision)

    def _note_emptied(self, listing: Listing) -> None:
        went_back = listing.revision < self.cluster.revision
        if went_back and self.cluster.definitions and not any(map(_is_definition, listing.entries)):
            log.error("registry: the store was emptied: it has no definition any more")
            self.emptied = True

    def _lost(self, error: RegistryError) -> None:
        if self.stale_since is None:
            self.stale_since = self._clock()
            log.warning("registry: lost, listing again: %s", error)

    def _apply(self, changes: Iterable[Change], revision: int) -> None:
        touched = Touched(first=not self.listed)
        for change in changes:
            self._apply_one(change, touched)
        self.cluster = self._tables.cluster(revision)
        self.listed = True
        if self.cluster.definitions:
            self.emptied = False
        if touched:
            for subscription in self._subscriptions:
                subscription.add(touched)
        self._advanced.set()
        self._advanced = asyncio.Event()

    def _apply_one(self, change: Change, touched: Touched) -> None:
        old = self._entries.pop(change.key, None)
        if isinstance(change, Entry):
            self._entries[change.key] = change
        key = parse(change.key)
        if key is None:  # a later version's, or not ours
            return
        if isinstance(change, Deleted):
            self._unreadable.discard(change.key)
            self._tables.set(key, None, touched)
        elif (noun := self._read(key, change)) is not None:
            self._tables.set(key, noun, touched)
        elif not _keeps_last_good(key, old, change):
            self._tables.set(key, None, touched)

    def _read(self, key: Key, entry: Entry) -> Noun | None:
        """None, and a line in the log the first time, if the value does not parse."""
        try:
            noun = decode(key, entry.value, entry.create_revision)
        except ValueError as error:
            if entry.key not in self._unreadable:
                self._unreadable.add(entry.key)
                log.warning("registry: %s: skipped: %s", entry.key, error)
            return None
        self._unreadable.discard(entry.key)
        return noun


def _is_definition(entry: Entry) -> bool:
    return isinstance(parse(entry.key), DefinitionKey)


def _keeps_last_good(key: Key, old: Entry | None, new: Entry) -> bool:
    """See the module's docstring. A recreated key was deleted in between, seen or not."""
    recreated = old is None or old.create_revision != new.create_revision
    return not recreated and not isinstance(key, ClaimKey | CandidacyKey)
