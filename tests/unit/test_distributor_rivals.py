# SPDX-License-Identifier: Apache-2.0
"""Who announces a VIP again, of hosts that publish it beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from anyport.decide.election import elect
from anyport.distributor.lan import Lan
from anyport.distributor.office import Office
from anyport.distributor.rivals import Rivals
from anyport.kernel.netlink import Interface
from anyport.model import Candidacy, Definition, Distributing, Host
from anyport.model.definition import Address
from anyport.registry.base import Delete, Put
from anyport.registry.keys import CandidacyKey, DefinitionKey, DistributingKey, HostKey
from anyport.registry.memory import MemoryRegistry, MemoryStore
from anyport.registry.mirror import Mirror
from anyport.registry.values import encode

VIP = ip_address("10.0.0.100")
DEFINITION = Definition(VIP)
TERM = 7


class World:
    """`us` distributes, in a LAN that is not there: `problem` is told of what would be sent."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry(MemoryStore())
        self.mirror = Mirror(self.registry, reader="us")
        self.holds = True
        self.announced = asyncio.Event()
        mac = bytes(6)
        interface = Interface("anyport-none", 0, mac, frozenset())
        self.lan = Lan(interface, lambda _: self.holds, self.problem)
        self.rivals = Rivals(
            "us", self.registry, self.mirror, self.lan, self.elected, mac, self.problem
        )
        self.office = Office.take(published("us", TERM), self.mirror.cluster)
        self.office.answering = True

    def problem(self, vip: Address, why: str) -> None:
        assert vip == VIP
        assert why.startswith("announcing 10.0.0.100")
        self.announced.set()

    def elected(self, vip: Address) -> str | None:
        cluster = self.mirror.cluster
        published = cluster.distributing.values()
        return elect(DEFINITION, cluster.candidacies.values(), cluster.hosts, published)

    async def write(self, *writes: Put | Delete) -> None:
        await self.mirror.caught_up(await self.registry.write(writes))

    async def answers(self) -> bool:
        """Whether it announces the VIP, at once."""
        self.announced.clear()
        self.rivals.answer(self.office)
        for _ in range(5):  # turns of the loop: that of the task, and some
            await asyncio.sleep(0)
        return self.announced.is_set()


def published(host: str, term: int) -> Distributing:
    return Distributing(host, term, DEFINITION, 0)


def publication(host: str, term: int) -> Put:
    return Put(str(DistributingKey(host, VIP)), encode(published(host, term)))


def member(host: str) -> list[Put]:
    return [
        Put(str(HostKey(host)), encode(Host(host, ip_address("10.0.0.9")))),
        Put(str(CandidacyKey(host, VIP)), encode(Candidacy(VIP, host, 100, 0))),
    ]


def gone(host: str) -> list[Delete]:
    """With its lease."""
    keys = HostKey(host), CandidacyKey(host, VIP), DistributingKey(host, VIP)
    return [Delete(str(key)) for key in keys]


def in_world(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        following = asyncio.ensure_future(world.mirror.run())
        definition = Put(str(DefinitionKey(VIP)), encode(DEFINITION))
        await world.write(definition, *member("us"), *member("other"), publication("us", TERM))
        try:
            await scenario(world)
        finally:
            world.lan.stop_announcing(VIP)
            following.cancel()

    asyncio.run(run())


def test_a_rival_that_comes_and_goes_is_answered() -> None:
    async def scenario(world: World) -> None:
        assert not await world.answers()
        await world.write(publication("other", TERM - 1))
        assert await world.answers()
        assert not await world.answers()  # it has been
        await world.write(Delete(str(DistributingKey("other", VIP))))
        assert await world.answers()

    in_world(scenario)


def test_the_successor_is_not_answered() -> None:
    """It has announced the VIP, and would be fenced: our lease ended, and we do not know yet."""

    async def scenario(world: World) -> None:
        await world.write(*gone("us"))
        assert not await world.answers()
        await world.write(publication("other", TERM + 1))
        assert not await world.answers()

    in_world(scenario)


def test_who_was_elected_at_the_same_time_and_has_the_higher_term_is_not_answered() -> None:
    async def scenario(world: World) -> None:
        await world.write(publication("other", TERM + 1))
        assert not await world.answers()

    in_world(scenario)


def test_while_another_may_have_been_elected_nobody_is_answered() -> None:
    async def scenario(world: World) -> None:
        world.holds = False
        await world.write(publication("other", TERM - 1))
        assert not await world.answers()
        world.holds = True
        await world.announced.wait()

    in_world(scenario)
