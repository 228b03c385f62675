# SPDX-License-Identifier: Apache-2.0
"""Hosts that claim port blocks of one VIP by a real etcd, each with its own view of it.

Election, claims, quarantine and pools are the daemon's own code. The kernel is a few sets
(tests/cluster has it, with whole daemons), and time passes when it is told to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from anyport.agent.blocks import Blocks
from anyport.agent.definitions import effective, present_distributor
from anyport.agent.ports import PortPools
from anyport.config import BlocksConfig, Config, HostConfig
from anyport.decide import blocks as rules
from anyport.decide.election import elect, next_term
from anyport.decide.routes import BlockIndex
from anyport.distributor.quarantine import Quarantine
from anyport.errors import RegistryError
from anyport.kernel.listen import HandedPort
from anyport.model import Candidacy, Definition, Distributing, Host, PortBlock, Protocol
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.base import Delete, Put
from anyport.registry.etcd import EtcdRegistry
from anyport.registry.keys import (
    PREFIX,
    CandidacyKey,
    DefinitionKey,
    DistributingKey,
    HostKey,
    Key,
)
from anyport.registry.mirror import Mirror
from anyport.registry.touched import Touched

VIP = IPv4Address("192.0.2.80")
NAMES = ("a", "b", "c")
FIRST, LAST = 40000, 40019
BLOCKS = BlocksConfig(size=4, largest=8, low_water=2, first=FIRST, last=LAST, rest=0)
TIMEOUT = 20.0
_BATCH = 100


class Kernel:
    """PoolKernel as sets. `holding`: ports with a socket of any state, TIME_WAIT included."""

    def __init__(self) -> None:
        self.pools: dict[Protocol, list[int]] = {protocol: [] for protocol in Protocol}
        self.taken: dict[int, HandedPort] = {}
        self.holding: set[tuple[Protocol, int]] = set()
        self._cookies = 0
        self.on_let_go: Callable[[Protocol, int], None] = lambda protocol, port: None

    def fill(self, vip: Address, protocol: Protocol, ports: Iterable[int]) -> None:
        for port in ports:
            assert port not in self.pools[protocol], "twice in the pool"
            self.pools[protocol].append(port)

    def pool(self, vip: Address, protocol: Protocol) -> list[int]:
        return list(self.pools[protocol])

    def handed(self) -> list[HandedPort]:
        return list(self.taken.values())

    def freed(self, cookie: int) -> None:
        self.taken.pop(cookie, None)

    def bindable(self, vip: Address, protocol: Protocol, port: int) -> bool:
        return (protocol, port) not in self.holding

    def is_own(self, port: int, own: Iterable[PortBlock]) -> bool:
        return any(port in block for block in own)

    def pop(self, protocol: Protocol, own: Iterable[PortBlock]) -> HandedPort | None:
        """bind(VIP, 0) of a program; a port that is not of an own block any more is let go, and
        `on_let_go` told."""
        while self.pools[protocol]:
            port = self.pools[protocol].pop(0)
            if self.is_own(port, own):
                self._cookies += 1
                handed = HandedPort(self._cookies, VIP, protocol, port, since_ns=0, bound=True)
                self.taken[handed.cookie] = handed
                self.holding.add((protocol, port))
                return handed
            self.on_let_go(protocol, port)
        return None


@dataclass
class Member:
    """A host. `may`: its deadline has not passed. `lease` 0: it has expired."""

    name: str
    registry: EtcdRegistry
    kernel: Kernel = field(default_factory=Kernel)
    may: bool = False
    lease: int = 0
    since: float = 0.0
    reaches: bool = False
    in_hands: set[tuple[Protocol, int]] = field(default_factory=set)
    """Handed out since its deadline passed last, and still held."""

    def __post_init__(self) -> None:
        host = HostConfig(address="192.0.2.1", interface="eth0", name=self.name)
        self._config = Config(host=host, blocks=BLOCKS)
        self._hosted: dict[Address, Definition] = {}
        self.programmed: tuple[PortBlock, ...] = ()
        self.programmed_at = 0  # a revision
        self.restarted = False
        self.term = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._new_daemon()

    def _new_daemon(self) -> None:
        self.mirror = Mirror(self.registry, first_pause=0.01)
        clock = asyncio.get_running_loop().time
        self.pools = PortPools(self.kernel, 0, clock)
        self.pools.adopt(VIP)
        self.kernel.on_let_go = lambda protocol, port: self.pools.on_freed(0, VIP, protocol, port)
        self.blocks = Blocks(self._config, self.registry, self.mirror, self.pools)
        self.quarantine = Quarantine(self.name, 0, self.registry, self.mirror)
        self._subscription = self.mirror.subscribe()

    # ---- as the daemon does it ----

    async def connect(self, again: bool) -> None:
        """`again`: the daemon starts again; else it has been cut off. Its kernel is as it was."""
        if self.reaches:
            return
        if again:
            self.restarted = True
            self._new_daemon()
        if not self.lease:
            self.lease = await self.registry.grant(60)
            self.since += 1
            self.term = 0
            host = Host(self.name, IPv4Address("192.0.2.1"), since=self.since)
            candidacy = Candidacy(VIP, self.name, 0, 0)
            said: dict[Key, values.Noun] = {
                HostKey(self.name): host,
                CandidacyKey(self.name, VIP): candidacy,
            }
            await self.registry.write(
                [Put(str(key), values.encode(noun), self.lease) for key, noun in said.items()]
            )
        self.reaches = True
        for work in (self.mirror.run(), self._follow(), self.blocks.run()):
            self._tasks.append(asyncio.ensure_future(work))

    async def cut_off(self) -> None:
        """Its view stands still, and its kernel goes on handing out. As a daemon that died."""
        self.reaches = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _follow(self) -> None:
        while True:
            await self._subscription.changed()
            self.offer()
            try:
                await self._distribute()
            except RegistryError:
                self._subscription.add(Touched(distributing={VIP}))

    @property
    def is_seen(self) -> bool:
        seen = self.mirror.cluster.hosts.get(self.name)
        return self.mirror.connected and seen is not None and seen.since == self.since

    def offer(self) -> None:
        """Agent._definitions_changed."""
        cluster = self.mirror.cluster
        self._hosted, _ = effective(cluster, self.name, {4}, self._hosted)
        self.blocks.resolve(self._hosted)
        self.programmed = self.blocks.kept(VIP) if VIP in self._hosted else ()
        self.programmed_at = cluster.revision
        if VIP in self._hosted:
            distributing = present_distributor(cluster, VIP)
            usable = rules.handout_blocks(cluster.claims.values(), self.name, distributing)
            self.pools.use(VIP, usable, self.blocks.fresh(VIP))
        else:
            self.pools.forget(VIP)
            self.kernel.pools = {protocol: [] for protocol in Protocol}
        self.may |= self.is_seen
        self.blocks.wake()

    async def _distribute(self) -> None:
        """Distributor._elections and _redistribute, with the maps left out."""
        cluster = self.mirror.cluster
        definition = cluster.definitions.get(VIP)
        if definition is None or not self.is_seen or not self.is_elected(definition):
            self.term = 0
            return
        terms = [d.term for d in cluster.distributing.values()]
        self.term = self.term or next_term(terms, cluster.revision)
        said = Distributing(self.name, self.term, definition, cluster.revision)
        before = cluster.distributing.get((VIP, self.name))
        routed = before.programmed_revision if before and before.term == self.term else 0
        newest = max((c.create_revision for c in cluster.claims.values()), default=0)
        if before is None or before.definition != definition or newest > routed:
            key = str(DistributingKey(self.name, VIP))
            await self.registry.write([Put(key, values.encode(said), self.lease)])

    def is_elected(self, definition: Definition) -> bool:
        cluster = self.mirror.cluster
        nouns = cluster.candidacies.values(), cluster.hosts, cluster.distributing.values()
        return elect(definition, *nouns) == self.name

    def routes(self) -> BlockIndex:
        return BlockIndex(self.mirror.cluster.claims.values(), VIP)

    # ---- its programs ----

    def bind_zero(self, protocol: Protocol) -> HandedPort | None:
        handed = self.kernel.pop(protocol, self.programmed) if self.may else None
        if handed is not None:
            self.in_hands.add((protocol, handed.port))
            self.pools.on_handed(handed.cookie, VIP, protocol, handed.port)
            self.blocks.wake()
        return handed

    def close(self, which: int, lingers: bool) -> None:
        """`lingers`: TIME_WAIT, or a child, is left on the port."""
        if self.kernel.taken:
            handed = list(self.kernel.taken.values())[which % len(self.kernel.taken)]
            self.kernel.freed(handed.cookie)
            if not lingers:
                self._vacate((handed.protocol, handed.port))
            self.pools.on_freed(handed.cookie, VIP, handed.protocol, handed.port)

    def linger_no_more(self) -> None:
        open_now = {(handed.protocol, handed.port) for handed in self.kernel.taken.values()}
        for port in self.kernel.holding - open_now:
            self._vacate(port)

    def _vacate(self, port: tuple[Protocol, int]) -> None:
        self.kernel.holding.discard(port)
        self.in_hands.discard(port)

    def tick(self) -> None:
        if self.reaches:
            self.pools.tick()
            self.blocks.wake()

    def on_offer(self, protocol: Protocol) -> list[int]:
        """Those in the pool that its kernel would not let go at bind(VIP, 0)."""
        own = self.programmed
        return [port for port in self.kernel.pools[protocol] if self.kernel.is_own(port, own)]

    def hands(self) -> set[tuple[Protocol, int]]:
        """Ports that are in its hands: held, or handed out at the next bind."""
        if not self.may:
            return self.in_hands
        return self.in_hands | {(p, port) for p in Protocol for port in self.on_offer(p)}


class BlockWorld:
    def __init__(self, endpoint: str) -> None:
        self._operator = EtcdRegistry([endpoint])
        self.members = {name: Member(name, EtcdRegistry([endpoint])) for name in NAMES}
        self._terms: dict[int, str] = {}

    async def up(self) -> None:
        """Whatever was there before is gone."""
        found = (await self._operator.list(PREFIX)).entries
        for at in range(0, len(found), _BATCH):
            await self._operator.write([Delete(entry.key) for entry in found[at : at + _BATCH]])
        await self.define(Definition(VIP))
        for member in self.members.values():
            await member.connect(again=False)

    async def down(self) -> None:
        for member in self.members.values():
            await member.cut_off()
            await member.registry.close()
        await self._operator.close()

    async def define(self, definition: Definition) -> None:
        key = str(DefinitionKey(VIP))
        await self._operator.write([Put(key, values.encode(definition))])

    async def expire(self, name: str) -> None:
        """The lease of a host that has been out of reach for long enough."""
        member = self.members[name]
        if not member.reaches and member.lease:
            await self._operator.revoke(member.lease)
            member.lease = 0

    async def quarantine_passes(self) -> None:
        """Whoever is out of reach has heard nothing for so long that its deadline has passed."""
        for name, member in self.members.items():
            if not member.reaches:
                await self.expire(name)
                member.may = False
                member.in_hands.clear()  # what it holds may be another's from now on
        for member in self.members.values():
            if member.reaches and member.term:
                for _ in range(2):
                    await _unless_refused(member.quarantine.tick([VIP]))

    def check(self) -> None:
        """No port in two hands, none in a pool that something is left on, no term twice."""
        for name, member in self.members.items():
            for protocol, pool in member.kernel.pools.items():
                assert not {(protocol, port) for port in pool} & member.kernel.holding, name
            for other in NAMES[NAMES.index(name) + 1 :]:
                both = member.hands() & self.members[other].hands()
                assert not both, f"{name} and {other} have {both}"
            self._check_offer(member)
            if member.term:
                assert self._terms.setdefault(member.term, name) == name

    def _check_offer(self, member: Member) -> None:
        """It is claimed by whoever offers it, also to those who know more by now.

        Not of a daemon that started again: a deletion that was under way may come after all that
        it read.
        """
        if not member.may or member.restarted:
            return
        offered = {n for p in Protocol for n in member.on_offer(p)}
        for other in self.members.values():
            if offered and other.mirror.cluster.revision > member.programmed_at:
                index = other.routes()
                strangers = {port for port in offered if index.owner(port) != member.name}
                assert not strangers, f"{member.name} offers {strangers}; to {other.name}: no"

    async def turns(self, count: int) -> None:
        """Lets everybody go on for a while, and looks at every step."""
        for turn in range(count):
            await asyncio.sleep(0)
            self.check()
            if turn % 50 == 49:  # now and then a second passes
                self.tick()

    def distributors(self) -> list[Member]:
        """The one of the highest term, if it is in touch with the registry."""
        members = [m for m in self.members.values() if m.term]
        latest = max(members, key=lambda m: m.term, default=None)
        return [latest] if latest and latest.reaches and latest.mirror.connected else []

    def tick(self) -> None:
        for member in self.members.values():
            member.tick()

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                while not holds():
                    self.tick()
                    await asyncio.sleep(0.001)
                    self.check()
        except TimeoutError:
            raise AssertionError(f"not within {TIMEOUT:.0f} s: {what}; {self.shown()}") from None

    def shown(self) -> str:
        return "; ".join(
            f"{m.name}: may {m.may}, term {m.term}, own {m.programmed}, "
            f"pools {m.kernel.pools}, holding {m.kernel.holding}"
            for m in self.members.values()
        )


async def _unless_refused(tick: Awaitable[None]) -> None:
    with suppress(RegistryError):  # who came back at that moment keeps what it has
        await tick
