# SPDX-License-Identifier: Apache-2.0
"""Claims of this host: beside one that claims more than it may (registry.limits), and while what
holds changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

import pytest

from anyport.agent.blocks import Blocks
from anyport.agent.ports import PortPools
from anyport.config import BlocksConfig, Config, HostConfig
from anyport.decide.blocks import MOST_CLAIMS
from anyport.model import Claim, Definition, Distributing, PortBlock, Protocol
from anyport.model.definition import Address
from anyport.registry.base import Delete, Put, Unchanged, Write
from anyport.registry.keys import ClaimKey, DefinitionKey, DistributingKey
from anyport.registry.memory import MemoryRegistry, MemoryStore
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
    """Just before the first claim is written, `before` is; and then `meanwhile` happens."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Write] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def write(self, writes: Sequence[Write], require: Sequence[Unchanged] = ()) -> int:
        before, self.before = self.before, []
        if before:
            self.store.apply(before)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return await super().write(writes, require)


class World:
    """Host `me`, whose mirror takes `most` claims of each host."""

    def __init__(self, most: int) -> None:
        self.registry = Raced()
        self.mirror = Mirror(self.registry, first_pause=0.0, most={ClaimKey: most})
        config = Config(host=HostConfig(address="10.0.0.1", interface="", name="me"), blocks=FOUR)
        self.kernel = Kernel()
        pools = PortPools(self.kernel, 0, asyncio.get_running_loop().time)
        self.blocks = Blocks(config, self.registry, self.mirror, pools)

    async def claim(self) -> None:
        await self.caught_up()
        self.holds(Definition(VIP))

    async def caught_up(self) -> None:
        await self.mirror.caught_up(self.registry.store.revision)

    def holds(self, *definitions: Definition) -> None:
        self.blocks.resolve({definition.vip: definition for definition in definitions})
        self.blocks.wake()

    async def until(self, holds: Callable[[], bool]) -> None:
        subscription = self.mirror.subscribe()
        while not holds():
            await subscription.changed()
            self.holds(Definition(VIP))

    def own(self, vip: Address = VIP) -> list[int]:
        claims = self.mirror.cluster.claims.values()
        return [c.block.first for c in claims if (c.host, c.block.vip) == ("me", vip)]

    def handed_out(self) -> list[int]:
        return [block.first for block in self.blocks.kept(VIP)]

    async def goes_on(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    async def store_is_another(self) -> None:
        begun = asyncio.Event()
        self.mirror.on_replaced = begun.set
        before, self.registry.store = self.registry.store, MemoryStore(identity=2)
        before.lose()
        await begun.wait()
        self.blocks.wake()

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


TWO = [claimed("me", first, first + 3) for first in (40000, 40004)]
NOT_HERE = Definition(VIP, hosts=frozenset({"other"}))


@pytest.mark.parametrize("before", [(NOT_HERE,), ()], ids=["left-out", "deleted"])
def test_a_host_that_has_the_vip_again_keeps_what_it_still_has(
    before: tuple[Definition, ...],
) -> None:
    """Its kernel hands ports out from then on: another host's, were the blocks given back."""

    async def scenario(world: World) -> None:
        world.registry.store.apply(TWO)
        await world.caught_up()
        second = world.registry.store.entries[TWO[1].key]
        world.registry.meanwhile = lambda: world.holds(Definition(VIP))
        world.holds(*before)
        await world.goes_on()
        world.holds(Definition(VIP))
        await world.goes_on()
        assert world.own() == world.handed_out() == [40004]
        assert world.registry.store.entries[TWO[1].key] == second

    in_world(scenario)


def test_what_is_given_back_is_the_claim_that_was_meant() -> None:
    """Not a later one of the same ports: etcd may take a write late, and what was sent twice."""

    async def scenario(world: World) -> None:
        def claim_anew() -> None:
            world.registry.store.apply([Delete(TWO[0].key)])
            world.registry.store.apply(TWO[:1])

        world.registry.store.apply(TWO[:1])
        await world.caught_up()
        world.registry.meanwhile = claim_anew
        world.holds(NOT_HERE)
        await world.goes_on()
        world.holds(Definition(VIP))
        await world.goes_on()
        assert world.own() == world.handed_out() == [40000]

    in_world(scenario)


def test_what_a_distributor_refuses_is_handed_out_no_more_and_kept_while_in_use() -> None:
    """A former one may have routed it."""

    async def scenario(world: World) -> None:
        world.registry.store.apply(TWO)
        [refused] = {world.registry.store.entries[put.key].create_revision for put in TWO}
        said = Distributing("other", 1, Definition(VIP), 99, frozenset({refused}))
        world.registry.store.apply([Put(str(DistributingKey("other", VIP)), encode(said))])
        world.kernel.holding |= {(Protocol.TCP, port) for port in (40001, 40005)}
        await world.caught_up()
        world.holds(Definition(VIP))
        await world.until(lambda: 40008 in world.own())  # those refused are not waited for
        assert set(world.own()) == {40000, 40004, 40008}
        assert world.handed_out() == [40008]
        world.kernel.holding.clear()
        world.blocks.wake()
        await world.until(lambda: world.own() == [40008])

    in_world(scenario, most=3)


def test_a_block_of_a_vip_that_is_gone_here_is_said_again_in_an_emptied_store() -> None:
    """Sockets have outlived it. Else its claim would be kept and given back for ever."""

    async def scenario(world: World) -> None:
        world.operator_defines(VIP)
        left = claimed("me", 50000, 50003, OTHER)
        world.registry.store.apply([claimed("me", 40000, 40003), left])
        world.kernel.holding.add((Protocol.TCP, 50001))
        await world.caught_up()
        world.holds(Definition(VIP))
        await world.store_is_another()
        await world.until(lambda: not world.mirror.settling)
        assert world.mirror.lost_claims() == []
        world.kernel.holding.clear()
        world.blocks.wake()
        await world.until(lambda: not world.own(OTHER))
        assert world.own() == [40000]

    in_world(scenario)


def test_what_was_beaten_once_is_never_handed_out() -> None:
    """Not when the older claim goes before this one is given back: nobody routes it yet."""

    async def scenario(world: World) -> None:
        older = claimed("other", 40000, 40003)
        world.registry.store.apply([older])
        world.registry.store.apply([claimed("me", 40000, 40003)])
        await world.caught_up()
        world.blocks.resolve({VIP: Definition(VIP)})
        world.registry.store.apply([Delete(older.key)])
        await world.caught_up()
        world.blocks.resolve({VIP: Definition(VIP)})
        assert (world.own(), world.handed_out()) == ([40000], [])
        world.blocks.wake()
        await world.until(lambda: not world.own())

    in_world(scenario)
