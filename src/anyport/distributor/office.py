# SPDX-License-Identifier: Apache-2.0
"""A tenure: what this host publishes for a VIP, and which claims it refuses meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from anyport.decide import routes as rules
from anyport.decide.blocks import as_published, refuse, refused_by
from anyport.kernel.connections import ConnectionRow
from anyport.model import Claim, Cluster, Definition, Distributing, PortKey, Route
from anyport.model.definition import Address

log = logging.getLogger(__name__)

Live = Callable[[], Iterable[ConnectionRow]]
"""The connections that are live."""
Slot = Callable[[str], int | None]
"""Of a host."""


@dataclass
class Office:
    """`answering`: whether it has announced itself yet. `ended`: it is another's, or nobody's.

    `refused`: create_revisions of all claims that are, those that the
    publication has no room to name included.
    """

    published: Distributing
    refused: frozenset[int]
    blocks: rules.BlockIndex
    answering: bool = False
    ended: bool = False
    rivals: set[str] = field(default_factory=set)

    @classmethod
    def take(cls, published: Distributing, cluster: Cluster) -> Office:
        refused = refused_by(published, cluster.claims.values())
        return cls(published, refused, rules.BlockIndex((), published.definition.vip))

    @property
    def vip(self) -> Address:
        return self.definition.vip

    @property
    def definition(self) -> Definition:
        return self.published.definition

    def routes(self, cluster: Cluster, ports: Iterable[PortKey]) -> dict[PortKey, Route | None]:
        """Of these ports; None: the local stack refuses."""
        listeners = cluster.listeners.get(self.vip, {})
        return {
            port: rules.route(
                port,
                listeners.get(port, {}),
                self.definition,
                cluster.hosts,
                self.blocks.owner(port[1]),
            )
            for port in ports
        }

    def judge_claims(self, cluster: Cluster, live: Live, slot: Slot) -> None:
        """All claims that there are: routed to their owners from now on, or refused."""
        self.refused = self._refused(cluster, live, slot)
        self.blocks = rules.block_index(cluster, self.vip, self.refused)
        named, limits = as_published(cluster.claims.values(), self.refused)
        if limits - self.published.limits:
            hosts = ", ".join(sorted(host for host, _ in limits))
            log.warning(
                "vip %s: %d claims refused, too many of %s", self.vip, len(self.refused), hosts
            )
        self.published = replace(
            self.published, programmed_revision=cluster.revision, refused=named, limits=limits
        )

    def _refused(self, cluster: Cluster, live: Live, slot: Slot) -> frozenset[int]:
        """The claims on ports where other hosts' connections or listeners live; for as long as
        these claims stand."""
        claims = [c for c in cluster.claims.values() if c.block.vip == self.vip]
        routed = self.published.programmed_revision
        before = self.refused & {claim.create_revision for claim in claims}
        if all(claim.create_revision <= routed for claim in claims):
            return before  # without a walk over the connection table
        in_use = _connected(self.vip, claims, cluster, live, slot)
        # A listener that its claimant had not heard of yet: the claim came between.
        notified = cluster.listeners.get(self.vip, {})
        in_use += [(key, host) for key, by_host in notified.items() for host in by_host]
        # What is enumerated is distributed beside the block, which is not handed out of any more.
        others = ((key[1], host) for key, host in in_use if not self.definition.enumerates(*key))
        return before | refuse(claims, others, routed)


def _connected(
    vip: Address, claims: Iterable[Claim], cluster: Cluster, live: Live, slot: Slot
) -> list[tuple[PortKey, str | None]]:
    """Port and host of each live connection."""
    # Claimants that are away just now, too: else their own connections would refuse them.
    known = {*cluster.hosts, *(claim.host for claim in claims)}
    names = {slot(name): name for name in known}
    return [((c.protocol, c.port), names.get(c.slot)) for c in live() if c.vip == vip]
