# SPDX-License-Identifier: Apache-2.0
"""The port blocks of hosts that are away: what becomes of them (docs/adr/0005)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress

from anyport.decide.blocks import MOST_VOIDS
from anyport.errors import Conflict, RegistryRefused
from anyport.model import Claim, Void
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.base import Delete, Put, Registry, Unchanged
from anyport.registry.keys import ClaimKey, VoidKey
from anyport.registry.mirror import Mirror

log = logging.getLogger(__name__)


class Quarantine:
    """`seconds`: for so long a host may be away before its claims count no more. `most`: voids that
    this host declares; what is due beyond goes on to count."""

    def __init__(
        self,
        host: str,
        seconds: float,
        registry: Registry,
        mirror: Mirror,
        *,
        most: int = MOST_VOIDS,
    ) -> None:
        self._host = host
        self._seconds = seconds
        self._registry = registry
        self._mirror = mirror
        self._most = most
        self._away: dict[Claim, float] = {}

    async def tick(self, vips: Collection[Address]) -> None:
        """`vips`: those that are distributed here. Raises RegistryError."""
        now = asyncio.get_running_loop().time()
        claims = self._mirror.cluster.claims.values()
        away = [c for c in claims if c.block.vip in vips and self._is_away(c)]
        self._away = {claim: self._away.get(claim, now) for claim in away}
        if self._mirror.connected:
            await self._say_again(vips)
            due = [c for c, since in self._away.items() if now - since > self._seconds]
            for claim in due[: max(0, self._most - self._said())]:
                with suppress(Conflict):  # its host is there, or says what cannot be read
                    await self._declare_void(claim, now - self._away[claim])
            await self._forget()

    def _said(self) -> int:
        return sum(self._host in by_host for by_host in self._mirror.cluster.voids.values())

    def _is_away(self, claim: Claim) -> bool:
        return claim.host not in self._mirror.cluster.hosts

    async def _say_again(self, vips: Collection[Address]) -> None:
        """For hosts that were away when their store was lost: they may have sockets on these
        ports. It is beneath their prefixes, which an emptied etcd, without roles, lets be written;
        one out of a backup may refuse it, and had what it had."""
        for claim in self._mirror.lost_claims():
            if claim.block.vip in vips:
                key = str(ClaimKey(claim.host, claim.block.vip, claim.block.first))
                with suppress(Conflict, RegistryRefused):  # it is there by now
                    await self._registry.write(
                        [Put(key, values.encode(claim))], [Unchanged(key, 0)]
                    )
                    log.warning("registry: %s said again, for the host that is away", key)

    async def _declare_void(self, claim: Claim, away_seconds: float) -> None:
        """Only while its host is away: one that comes back in this moment keeps it (Conflict)."""
        block, revision = claim.block, claim.create_revision
        void = values.encode(Void(block.vip, revision, self._host))
        await self._registry.write(
            [Put(str(VoidKey(self._host, block.vip, revision)), void)],
            [
                Unchanged(str(ClaimKey(claim.host, block.vip, block.first)), revision),
                self._mirror.absence(claim.host),
            ],
        )
        log.info(
            "vip %s: ports %d-%d of %s, gone for %.0f s, are free again",
            block.vip,
            block.first,
            block.last,
            claim.host,
            away_seconds,
        )

    async def _forget(self) -> None:
        """The voids of this host whose claims are gone; revisions never come again."""
        cluster = self._mirror.cluster
        present = {
            (c.block.vip, c.create_revision)
            for c in (*cluster.claims.values(), *cluster.voided.values())
        }
        gone = [
            VoidKey(self._host, vip, claim)
            for (vip, claim), by_host in cluster.voids.items()
            if self._host in by_host and (vip, claim) not in present
        ]
        for key in gone:
            await self._registry.write([Delete(str(key))])
