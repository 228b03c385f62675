# SPDX-License-Identifier: Apache-2.0
"""Claims of this host beside one that claims more than it may (registry.limits)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

import pytest

from anyport.agent.blocks import Blocks
from anyport.agent.ports import PortPools
from anyport.config import BlocksConfig, Config, HostConfig
from anyport.decide.blocks import MOST_CLAIMS
from anyport.model import Claim, Definition, PortBlock
from anyport.model.definition import Address
from anyport.registry.base import Delete, Put, Unchanged, Write
from anyport.registry.keys import ClaimKey, DefinitionKey
from anyport.registry.memory import MemoryRegistry
from anyport.registry.mirror import Mirror
from anyport.registry.values import encode
from tests.support.block_world import Kernel

VIP, OTHER = ip_address("10.0.0.100"), ip_address("10.0.0.101")
FOUR = BlocksConfig(size=4, largest=4, low_water=2, first=40000, last=40011, rest=0)
TIMEOUT = 10.0


def claimed(host: str, first: int, last: int, vip: Address = VIP) -> Put:
    block = PortBlock(vip, first, last)
    return Put(str(ClaimKey(host, vip, first)), encode(Claim(block, host, 0)))


class Raced(MemoryRegistry):
    """Just before the first claim is written, `before` is."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Write] = []

    async def write(self, writes: Sequence[Write], require: Sequence[Unchanged] = ()) -> int:
        before, self.before = self.before, []
        if before:
            self.store.apply(before)
        return await super().write(writes, require)


class World:
    """Host `me`, whose mirror takes `most` claims of each host."""

    def __init__(self, most: int) -> None:
        self.registry = Raced()
        self.mirror = Mirror(self.registry, first_pause=0.0, most={ClaimKey: most})
        config = Config(host=HostConfig(address="10.0.0.1", interface="", name="me"), blocks=FOUR)
        pools = PortPools(Kernel(), 0, asyncio.get_running_loop().time)
        self.blocks = Blocks(config, self.registry, self.mirror, pools)

    async def claim(self) -> None:
        await self.mirror.caught_up(self.registry.store.revision)
        self.blocks.resolve({VIP: Definition(VIP)})
        self.blocks.wake()

    async def until(self, holds: Callable[[], bool]) -> None:
        subscription = self.mirror.subscribe()
        while not holds():
            await subscription.changed()
            self.blocks.resolve({VIP: Definition(VIP)})
            self.blocks.wake()

    def own(self, vip: Address = VIP) -> list[int]:
        claims = self.mirror.cluster.claims.values()
        return [c.block.first for c in claims if (c.host, c.block.vip) == ("me", vip)]

    def operator_defines(self, vip: Address) -> None:
        """Else what is claimed of it is given back."""
        self.registry.store.apply([Put(str(DefinitionKey(vip)), encode(Definition(vip)))])


def in_world(scenario: Callable[[World], Awaitable[None]], most: int = 2) -> None:
    async def run() -> None:
        world = World(most)
        async with asyncio.timeout(TIMEOUT):
            tasks = [asyncio.create_task(work) for work in (world.mirror.run(), world.blocks.run())]
            await scenario(world)
            for task in tasks:
                task.cancel()

    asyncio.run(run())


def test_nobody_claims_what_is_claimed_in_excess() -> None:
    """It would own the ports when another of its host goes, though others had them in use."""

    async def scenario(world: World) -> None:
        for first in (1000, 2000, 40000):
            world.registry.store.apply([claimed("hostile", first, first + 7)])
        await world.claim()
        await world.until(lambda: bool(world.own()))
        assert world.own() == [40008]

    in_world(scenario)


def test_a_block_is_given_back_that_was_claimed_in_excess_just_before() -> None:
    async def scenario(world: World) -> None:
        for first in (1000, 2000):
            world.registry.store.apply([claimed("hostile", first, first + 7)])
        world.registry.before = [claimed("hostile", 40000, 40007)]
        world.registry.before.append(claimed("hostile", 40008, 40010))
        await world.claim()
        await world.until(lambda: world.own() == [40011])

    in_world(scenario)


def test_a_host_claims_no_more_than_counts(caplog: pytest.LogCaptureFixture) -> None:
    """Of whatever VIPs."""

    async def scenario(world: World) -> None:
        many = [claimed("me", port, port, OTHER) for port in range(1, MOST_CLAIMS + 1)]
        world.registry.store.apply(many)
        world.operator_defines(OTHER)
        await world.claim()
        for _ in range(10):
            await asyncio.sleep(0)
        assert "no room for another port block" in caplog.text
        assert not world.own(VIP)
        world.registry.store.apply([Delete(many[0].key)])
        await world.until(lambda: bool(world.own(VIP)))

    in_world(scenario, MOST_CLAIMS)
