# SPDX-License-Identifier: Apache-2.0
"""`anyport drain` and `resume`: the operator's wish about a host, and what it comes to."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from anyport.agent.definitions import in_force, present_distributors
from anyport.daemon import operator
from anyport.daemon.eventually import WAIT_SECONDS, eventually
from anyport.decide import drains as rules
from anyport.errors import AnyportError, Conflict, UsageError
from anyport.model import Drain
from anyport.registry import values
from anyport.registry.base import Delete, Put, Registry, Unchanged
from anyport.registry.keys import DrainKey
from anyport.registry.mirror import Mirror

Row = dict[str, Any]


class Drains:
    def __init__(self, registry: Registry, mirror: Mirror) -> None:
        self._registry = registry
        self._mirror = mirror

    async def drain(self, host: str, anyway: bool) -> Row:
        """Returns once new connections go elsewhere, or with `pending`: why not yet.

        Raises AnyportError if nobody else could distribute a VIP, unless `anyway`.
        """
        self._require(host)
        refused = self._only_target(host)
        if not anyway and host not in self._mirror.cluster.drains:
            self._refuse_orphans(host)
        # Drained or not: it may be so no more in a store that was emptied.
        await self._write(Drain(host, time.time()))
        routed = await eventually(self._mirror, lambda: self._is_routed(host))
        why = f"{host} is to be drained, but new connections may still be sent to it"
        return {"pending": None if routed else why, "refused": refused}

    async def resume(self, host: str) -> Row:
        """What is not drained stays so: success."""
        self._require(host)
        delete = Delete(str(DrainKey(host)))
        revision = await operator.write(self._registry, [delete], what="resume hosts")
        await self._caught_up(revision)
        return {"pending": None}

    async def _write(self, drain: Drain) -> None:
        key = str(DrainKey(drain.host))
        try:
            revision = await operator.write(
                self._registry,
                [Put(key, values.encode(drain))],
                [Unchanged(key, 0)],
                what="drain hosts",
            )
        except Conflict:
            return  # somebody else has drained it just now
        await self._caught_up(revision)

    def _require(self, host: str) -> None:
        known = rules.known_hosts(self._mirror.cluster)
        if host not in known:
            names = ", ".join(sorted(known)) or "none"
            raise UsageError(f"host {host!r} is not known; those that are: {names}")

    def _refuse_orphans(self, host: str) -> None:
        orphans = rules.orphaned(host, self._mirror.cluster)
        if orphans:
            vips = ", ".join(map(str, orphans))
            raise AnyportError(
                f"no host but {host} could distribute {vips}; `--yes` drains it all the same"
            )

    def _only_target(self, host: str) -> list[Row]:
        definitions = [definition for _, definition in in_force(self._mirror.cluster)]
        return [
            {"vip": str(vip), "protocol": protocol.word, "port": port}
            for vip, (protocol, port) in rules.only_target(host, self._mirror.cluster, definitions)
        ]

    async def _caught_up(self, revision: int) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._mirror.caught_up(revision)
        except TimeoutError:
            raise AnyportError("it is stored, but the registry does not tell of it yet") from None

    def _is_routed(self, host: str) -> bool:
        """By distributors other than itself: its VIPs are handed on first."""
        cluster = self._mirror.cluster
        drain = cluster.drains.get(host)
        published = present_distributors(cluster, cluster.definitions)
        return (
            drain is not None
            and rules.is_routed(drain, published)
            and all(d.host != host for d in published)
        )
