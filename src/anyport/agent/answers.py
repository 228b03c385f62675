# SPDX-License-Identifier: Apache-2.0
"""What a host tells a new distributor: the connections to the VIP that it has (docs/adr/0018)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from anyport.agent.definitions import present_distributor
from anyport.decide.gathering import is_asked, pieces
from anyport.errors import KernelError
from anyport.kernel.abi import GATHERED_BYTES
from anyport.kernel.own_connections import OwnConnections, row_bytes
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.keys import ConnectionsKey
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher

log = logging.getLogger(__name__)


class Answers:
    """Published when a distributor gathers, withdrawn when it has done so, or is gone."""

    def __init__(
        self,
        host: str,
        versions: Collection[int],
        kernel: OwnConnections,
        mirror: Mirror,
        publisher: Publisher,
    ) -> None:
        """`versions`: the IP versions that the host has an address of."""
        self._host = host
        self._versions = versions
        self._kernel = kernel
        self._mirror = mirror
        self._publisher = publisher
        self._subscription = mirror.subscribe()
        self._answered: dict[Address, tuple[int, list[str]]] = {}
        """VIP -> term of who was answered, and the keys of what."""
        self._heard: dict[Address, int] = {}
        """VIP -> the last term that was answered, and asks no more."""
        self._followed = asyncio.Event()

    async def run(self) -> None:
        while True:
            touched = await self._subscription.changed()
            if touched.distributing or touched.definitions:
                await self._follow(touched.distributing | touched.definitions)
                self._followed.set()

    async def heard(self, vips: Collection[Address]) -> None:
        """Waits until the present distributors of these have heard what this host has."""
        while not all(self._is_heard(vip) for vip in vips):
            self._followed.clear()
            await self._followed.wait()

    def _is_heard(self, vip: Address) -> bool:
        published = present_distributor(self._mirror.cluster, vip)
        if published is None or not published.definition.allows(self._host):
            return True
        return self._heard.get(vip) == published.term

    async def _follow(self, vips: Collection[Address]) -> None:
        for vip in vips:
            term = self._asking(vip)
            answered, _ = self._answered.get(vip, (None, []))
            if answered != term:
                self._withdraw(vip)
            if term is not None and answered != term:
                await self._answer(vip, term)

    def _asking(self, vip: Address) -> int | None:
        """The term of the distributor that gathers; an older one's question is not heard."""
        cluster = self._mirror.cluster
        published = present_distributor(cluster, vip) if vip in cluster.definitions else None
        if published is None or not is_asked(self._host, self._versions, published):
            return None
        return published.term

    async def _answer(self, vip: Address, term: int) -> None:
        """As of now: whoever it got through the distributor before has announced itself no more."""
        try:  # in a thread: the loop would stand still for 100,000 connections
            rows = await asyncio.to_thread(self._kernel.rows, vip)
        except KernelError as error:
            log.error("vip %s: connections cannot be told: %s", vip, error)
            return
        if self._asking(vip) != term:
            return
        self._publish(vip, term, rows)

    def _publish(self, vip: Address, term: int, rows: bytes) -> None:
        size = row_bytes(vip)
        said = pieces(self._host, term, rows, GATHERED_BYTES)
        left_out = len(rows) // size - sum(len(piece.rows) for piece in said) // size
        if left_out:
            log.warning("vip %s: %d connections more than can be told: left out", vip, left_out)
        keys = [str(ConnectionsKey(self._host, vip, number)) for number in range(len(said))]
        self._answered[vip] = term, keys
        for key, piece in zip(keys, said, strict=True):
            self._publisher.set(key, values.encode(piece))

    def _withdraw(self, vip: Address) -> None:
        if vip not in self._answered:
            return
        self._heard[vip], keys = self._answered.pop(vip)
        for key in keys:
            self._publisher.delete(key)
