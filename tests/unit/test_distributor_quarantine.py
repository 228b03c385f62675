# SPDX-License-Identifier: Apache-2.0
"""Claims of hosts that are away: when they are declared void, and when not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address

from anyport.distributor.quarantine import Quarantine
from anyport.model import Claim, Heartbeat, Host, PortBlock
from anyport.registry.base import Delete, Put
from anyport.registry.heartbeats import SILENT_TTLS
from anyport.registry.keys import HOSTS, ClaimKey, HeartbeatKey, HostKey
from anyport.registry.memory import MemoryRegistry, MemoryStore
from anyport.registry.mirror import Mirror
from anyport.registry.values import encode

VIP, OTHER = ip_address("10.0.0.100"), ip_address("10.0.0.101")
CLAIM = ClaimKey("gone", VIP, 40000)
PRESENT = Put(str(HostKey("gone")), encode(Host("gone", ip_address("10.0.0.9"))))
BEAT = Put(str(HeartbeatKey("gone")), encode(Heartbeat("gone", 5)))
OWN_BEAT = Put(str(HeartbeatKey("d")), encode(Heartbeat("d", 5)))
VOIDED = f"{HOSTS}d/voided/"


class World:
    """A claim of the host `gone`, which is away, as the distributor `d` sees it."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry(MemoryStore())
        self.mirror = Mirror(self.registry, reader="d")

    async def write(self, *writes: Put | Delete) -> None:
        await self.mirror.caught_up(await self.registry.write(writes))

    async def voids(self) -> list[str]:
        return [entry.key for entry in (await self.registry.list(VOIDED)).entries]

    def quarantine(self, seconds: float) -> Quarantine:
        return Quarantine("d", seconds, self.registry, self.mirror)


def in_world(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        following = asyncio.ensure_future(world.mirror.run())
        block = PortBlock(VIP, CLAIM.first, 40063)
        await world.write(Put(str(CLAIM), encode(Claim(block, "gone", 0))))
        try:
            await scenario(world)
        finally:
            following.cancel()

    asyncio.run(run())


def test_a_host_that_is_away_for_long_enough_loses_its_blocks() -> None:
    async def scenario(world: World) -> None:
        long, short = world.quarantine(3600), world.quarantine(0)
        for _ in range(2):  # the first sees it go
            await long.tick([VIP])
            await short.tick([OTHER])
        assert await world.voids() == []
        for _ in range(2):
            await short.tick([VIP])
        [claim] = (await world.registry.list(str(CLAIM))).entries
        assert await world.voids() == [f"{VOIDED}{VIP}/{claim.mod_revision}"]

    in_world(scenario)


def test_no_more_are_declared_void_than_count() -> None:
    """Hosts whose claims are many, and gone for good, would make it say too much."""

    async def scenario(world: World) -> None:
        second = ClaimKey("gone", VIP, 40064)
        block = PortBlock(VIP, 40064, 40127)
        await world.write(Put(str(second), encode(Claim(block, "gone", 0))))
        quarantine = Quarantine("d", 0, world.registry, world.mirror, most=1)
        for _ in range(3):
            await quarantine.tick([VIP])
            await world.mirror.caught_up(world.registry.store.revision)
        [void] = await world.voids()
        await world.write(Delete(str(CLAIM)))
        for _ in range(3):
            await quarantine.tick([VIP])
            await world.mirror.caught_up(world.registry.store.revision)
        [other] = await world.voids()
        assert other != void

    in_world(scenario)


def test_one_that_is_there_keeps_them() -> None:
    async def scenario(world: World) -> None:
        await world.write(PRESENT)
        quarantine = world.quarantine(0)
        for _ in range(2):
            await quarantine.tick([VIP])
        assert await world.voids() == []

    in_world(scenario)


def test_one_that_returns_at_that_moment_keeps_them() -> None:
    async def scenario(world: World) -> None:
        quarantine = world.quarantine(0)
        await quarantine.tick([VIP])
        await world.registry.write([PRESENT])
        await quarantine.tick([VIP])  # the mirror has not seen it yet
        assert await world.voids() == []

    in_world(scenario)


def test_one_whose_lease_somebody_keeps_alive_loses_them_too() -> None:
    """But for a heartbeat at that moment."""

    async def scenario(world: World) -> None:
        lease = await world.registry.grant(5)
        await world.write(replace(PRESENT, lease=lease), BEAT)
        for _ in range(SILENT_TTLS):
            await world.write(OWN_BEAT)
        quarantine = world.quarantine(0)
        await quarantine.tick([VIP])
        await world.registry.write([BEAT])
        await quarantine.tick([VIP])
        assert await world.voids() == []
        for _ in range(SILENT_TTLS):
            await world.write(OWN_BEAT)
        for _ in range(2):
            await quarantine.tick([VIP])
        assert len(await world.voids()) == 1

    in_world(scenario)


def test_the_word_is_forgotten_with_the_claim() -> None:
    async def scenario(world: World) -> None:
        quarantine = world.quarantine(0)
        for _ in range(2):
            await quarantine.tick([VIP])
        [said] = await world.voids()
        await world.mirror.caught_up((await world.registry.list(said)).revision)
        await quarantine.tick([VIP])
        assert await world.voids() == [said]
        await world.write(Delete(str(CLAIM)))
        await quarantine.tick([])
        assert await world.voids() == []

    in_world(scenario)
