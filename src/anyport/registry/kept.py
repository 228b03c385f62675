# SPDX-License-Identifier: Apache-2.0
"""What stays in force when another store takes the place of the one in which it was said.

Hosts say again what they have. The operator's definitions nobody says again but the operator, so
those that are missing stay; so do claims, which carry no lease: a host that is away may have them
in use; and distributors that are there, for a while: they take office again, in their term. Drains
are lost, and told of by host.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping

from anyport.model import Claim, Cluster, Distributing
from anyport.registry.base import Change, Changes, Deleted, Entry, Listing
from anyport.registry.keys import (
    ClaimKey,
    ConnectionsKey,
    DefinitionKey,
    DistributingKey,
    DrainKey,
    HostKey,
    Key,
    VoidKey,
    parse,
)

log = logging.getLogger(__name__)

OFFICE_SECONDS = 5.0
"""What a distributor has to take office again. One whose daemon began anew meanwhile knows of
no tenure: it would wait for who is elected, and the others for it, for ever."""

_NOT_SAID_AGAIN = DefinitionKey | DrainKey | DistributingKey | VoidKey | ConnectionsKey
"""The operator says the one, an election the next; a void goes with its claim, pieces with their
question."""

Entries = Mapping[str, Entry]
"""By key: all that is known of a store."""


def is_of_another_store(listing: Listing, store: int, revision: int, entries: Entries) -> bool:
    """Than `store`, of which `entries` were known at `revision`. By its name; by a revision that
    has gone back; by a key older than that revision, which was not there then."""

    def is_news(entry: Entry) -> bool:
        known = entries.get(entry.key)
        if known is None:
            return parse(entry.key) is not None  # others are not remembered
        return known.create_revision != entry.create_revision

    return (
        listing.store != store
        or listing.revision < revision
        or any(e.create_revision <= revision and is_news(e) for e in listing.entries)
    )


def missing(listing: Listing, entries: Entries) -> set[str]:
    return entries.keys() - {entry.key for entry in listing.entries}


class NewStore:
    """One that takes the place of another, of which `entries` were known; filling up."""

    def __init__(self, listing: Listing, entries: Entries) -> None:
        self._name = listing.store
        self.revision = listing.revision
        self._entries = {entry.key: entry for entry in listing.entries}
        absent = missing(listing, entries)
        self._unsaid = {key for key in absent if not isinstance(parse(key), _NOT_SAID_AGAIN)}
        self.withdrawn: set[str] = set()
        """Said in it, and deleted."""

    @property
    def is_complete(self) -> bool:
        """Whether hosts have said again all that they had said in the other."""
        return not self._unsaid

    def is_still(self, listing: Listing) -> bool:
        """Whether that is of this one, and not of yet another."""
        return not is_of_another_store(listing, self._name, self.revision, self._entries)

    def relist(self, listing: Listing) -> None:
        """After its watch broke off."""
        gone = (Deleted(key) for key in missing(listing, self._entries))
        self.add(Changes(listing.revision, (*gone, *listing.entries)))

    def add(self, changes: Changes) -> None:
        self.revision = changes.revision
        for change in changes.changes:
            self._unsaid.discard(change.key)
            if isinstance(change, Entry):
                self._entries[change.key] = change
                self.withdrawn.discard(change.key)
            else:
                self._entries.pop(change.key, None)
                self.withdrawn.add(change.key)

    def listing(self) -> Listing:
        return Listing(self.revision, tuple(self._entries.values()), self._name)


class Kept:
    """One for each mirror, over all stores. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._offices_until = math.inf
        self.keys: set[str] = set()
        """Not in the store, but in one before."""
        self.lost_drains: set[str] = set()
        """Hosts that were drained in a store that is gone, and have not been drained since."""

    def keep(
        self, new: NewStore, entries: Entries, cluster: Cluster
    ) -> dict[DistributingKey, Distributing | None]:
        """What stays in force of `entries`, which `cluster` shows; and what is so of distributors
        that stay: revisions that they spoke of were of another store."""
        listing = new.listing()
        there = {entry.key for entry in listing.entries}
        counting = {_claim_key(claim) for claim in cluster.claims.values()}
        self.keys -= new.withdrawn
        self.lost_drains -= {k.host for k in map(parse, new.withdrawn) if isinstance(k, DrainKey)}
        for text in missing(listing, entries) - new.withdrawn:
            match parse(text):
                case DefinitionKey():
                    self.keys.add(text)
                case DrainKey(host):
                    self.lost_drains.add(host)
                    log.error("host %s: drained no more, as that went with the store", host)
                case ClaimKey() if text in counting:
                    self.keys.add(text)
                case DistributingKey(host, _) if str(HostKey(host)) in there:
                    self.keys.add(text)
        self._offices_until = self._clock() + OFFICE_SECONDS
        programmed = _programmed(listing, entries)
        offices: dict[DistributingKey, Distributing | None] = {}
        for key in self._offices():
            said = cluster.distributing.get((key.vip, key.host))
            offices[key] = said and Distributing(said.host, said.term, said.definition, programmed)
        return offices

    def heard(self, key: Key | None, change: Change) -> None:
        """It is said again, or deleted."""
        self.keys.discard(change.key)
        if isinstance(key, DrainKey) and isinstance(change, Entry):
            self.lost_drains.discard(key.host)

    @property
    def has_definitions(self) -> bool:
        """In force, and not deleted by anybody."""
        return any(isinstance(parse(key), DefinitionKey) for key in self.keys)

    def claims(self, cluster: Cluster) -> list[Claim]:
        if not self.keys:
            return []
        return [claim for claim in cluster.claims.values() if _claim_key(claim) in self.keys]

    def ended_offices(self) -> list[DistributingKey]:
        """Those that have not been taken again in time; once."""
        if self._clock() < self._offices_until:
            return []
        self._offices_until = math.inf
        return list(self._offices())

    def _offices(self) -> Iterator[DistributingKey]:
        return (key for key in map(parse, self.keys) if isinstance(key, DistributingKey))


def _programmed(listing: Listing, entries: Entries) -> int:
    """The revision of the new store up to which all claims were in the old one."""
    new = [
        entry.mod_revision
        for entry in listing.entries
        if isinstance(parse(entry.key), ClaimKey) and entry.key not in entries
    ]
    return min(new, default=listing.revision + 1) - 1


def _claim_key(claim: Claim) -> str:
    return str(ClaimKey(claim.host, claim.block.vip, claim.block.first))
