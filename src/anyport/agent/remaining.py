# SPDX-License-Identifier: Apache-2.0
"""What a drained host has left: it alone knows its connections, whoever distributes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from anyport.agent.definitions import present_distributors
from anyport.decide.drains import is_routed
from anyport.errors import KernelError
from anyport.kernel import sock_diag
from anyport.model import Remaining
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.keys import RemainingKey
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher

COUNT_SECONDS = 1.0


class RemainingConnections:
    """Published once no distributor sends new connections here: zero is the end then."""

    def __init__(self, host: str, mirror: Mirror, publisher: Publisher) -> None:
        self._host = host
        self._mirror = mirror
        self._publisher = publisher
        self._key = str(RemainingKey(host))

    async def run(self, vips: Callable[[], Collection[Address]]) -> None:
        """`vips`: those of this host."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            await self._tell(tuple(vips()))

    async def _tell(self, vips: Collection[Address]) -> None:
        if not self._is_due(vips):
            self._withdraw()
            return
        try:  # in a thread: the loop would stand still for 100,000 connections
            left = len(await asyncio.to_thread(sock_diag.connections, vips))
        except KernelError:
            return
        value = values.encode(Remaining(self._host, left))
        if self._is_due(vips) and self._publisher.wanted(self._key) != value:
            self._publisher.set(self._key, value)

    def _is_due(self, vips: Collection[Address]) -> bool:
        cluster = self._mirror.cluster
        drain = cluster.drains.get(self._host)
        return drain is not None and is_routed(drain, present_distributors(cluster, vips))

    def _withdraw(self) -> None:
        if self._publisher.wanted(self._key) is not None:
            self._publisher.delete(self._key)
