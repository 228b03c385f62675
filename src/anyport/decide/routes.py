# SPDX-License-Identifier: Apache-2.0
"""The port table: (VIP, protocol, port) -> route (R5, R6, R7)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping

from anyport.decide.blocks import owners
from anyport.decide.election import is_active
from anyport.model import (
    Claim,
    Cluster,
    Definition,
    Distributed,
    Host,
    Listener,
    PortKey,
    Protocol,
    Route,
    Target,
    Unique,
)
from anyport.model.definition import Address


class BlockIndex:
    """Who owns the block that a port of one VIP lies in. Build a new one when a claim changes."""

    def __init__(self, claims: Iterable[Claim], vip: Address) -> None:
        """`claims`: of all hosts, the beaten ones too."""
        self._owning = sorted(
            (c for c in owners(claims) if c.block.vip == vip), key=lambda c: c.block.first
        )
        self._firsts = [c.block.first for c in self._owning]

    def owner(self, port: int) -> str | None:
        place = bisect_right(self._firsts, port) - 1
        if place < 0 or port not in self._owning[place].block:
            return None
        return self._owning[place].host

    def ports(self) -> Iterator[int]:
        """Every port that lies in an owned block, lowest first."""
        for claim in self._owning:
            yield from range(claim.block.first, claim.block.last + 1)


def route(
    key: PortKey,
    listeners: Mapping[str, Listener],
    definition: Definition,
    hosts: Mapping[str, Host],
    block_owner: str | None,
) -> Route | None:
    """Where requests to this port go; None: nowhere, the local stack refuses them (R8).

    `definition` is the effective one, `listeners` what was notified of this
    port, by host. A port of an owned block goes to the owner before its
    listener is notified, and never to anybody else (R7); the owner need not
    be in `hosts`, for its block outlives its lease. A port that the definition
    has come to enumerate is distributed all the same: the operator said so.

    A listener is checked again here: it may have been notified under a
    definition that no longer holds.
    """
    if block_owner is not None and not definition.enumerates(*key):
        return Unique(block_owner) if definition.allows(block_owner) else None
    there = [
        name
        for name in sorted(listeners)
        if definition.allows(name) and name in hosts and _counts(definition, key, listeners[name])
    ]
    targets = tuple(Target(name, hosts[name].weight) for name in there if is_active(hosts[name]))
    # A TCP connection stays by itself; any datagram may begin a flow.
    keeping = tuple(n for n in there if key[0] is Protocol.UDP and not is_active(hosts[n]))
    return Distributed(targets, keeping) if targets else None


def block_index(cluster: Cluster, vip: Address, refused: Collection[int] = ()) -> BlockIndex:
    """Of the claims of `vip` but those that its distributor `refused` (create_revisions)."""
    granted = [c for c in cluster.claims.values() if c.create_revision not in refused]
    return BlockIndex(granted, vip)


def routes(
    cluster: Cluster, definition: Definition, refused: Collection[int] = ()
) -> dict[PortKey, Route]:
    """The whole port table of a VIP under its effective definition.

    Each entry is what `route` gives for it; a port without an entry has no route.
    """
    blocks = block_index(cluster, definition.vip, refused)
    notified = cluster.listeners.get(definition.vip, {})
    leased = ((protocol, port) for port in blocks.ports() for protocol in Protocol)
    table: dict[PortKey, Route] = {}
    for key in dict.fromkeys((*notified, *leased)):
        there = notified.get(key, {})
        found = route(key, there, definition, cluster.hosts, blocks.owner(key[1]))
        if found is not None:
            table[key] = found
    return table


def _counts(definition: Definition, key: PortKey, listener: Listener) -> bool:
    """R2 and R3 as far as a notification shows them; R7's ports never come here."""
    return definition.enumerates(*key) if definition.enumerated else listener.specific
