# SPDX-License-Identifier: Apache-2.0
"""The loop of every host: what listens here, and what of it the cluster is told (R1-R4, R7)."""

from __future__ import annotations

import asyncio
import logging
import math
import pwd
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from anyport.agent.answers import Answers
from anyport.agent.blocks import Blocks
from anyport.agent.definitions import effective, present_distributor
from anyport.agent.ports import PortPools
from anyport.agent.remaining import RemainingConnections
from anyport.agent.tunnel_end import TunnelEnd
from anyport.config import Config
from anyport.decide import blocks as block_rules
from anyport.decide import counts
from anyport.errors import KernelError
from anyport.kernel import listen, netlink
from anyport.kernel.listen import HostedDefinition, ListenKernel
from anyport.kernel.own_connections import OwnConnections
from anyport.kernel.sysctl import ReservedPorts
from anyport.model import Definition, Listener, ListenerKey, Protocol, Socket
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.base import Registry
from anyport.registry.keep_alive import now
from anyport.registry.keys import ListenerEntryKey
from anyport.registry.membership import Membership
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher
from anyport.registry.touched import Touched

log = logging.getLogger(__name__)

AUDIT_SECONDS = 30.0
TICK_SECONDS = 1.0


class Agent:
    """Turns kernel events into notifications, and keeps this host's kernel side up to date.

    One thread, and no decision awaits: between two awaits the sockets, the
    definitions and the cluster hold still.
    """

    def __init__(
        self,
        config: Config,
        kernel: ListenKernel,
        registry: Registry,
        mirror: Mirror,
        publisher: Publisher,
        membership: Membership,
        tunnel_end: TunnelEnd,
        own: OwnConnections,
    ) -> None:
        self.host = config.host.name
        self._versions = config.host.versions
        self._kernel = kernel
        self._mirror = mirror
        self._publisher = publisher
        self._membership = membership
        self.tunnel_end = tunnel_end
        self._handout_seconds = config.blocks.quarantine / 2
        self._handout_until = math.inf  # CLOCK_BOOTTIME (s); before the first contact: no matter
        self.hosted: dict[Address, Definition] = {}
        self.listeners: dict[ListenerKey, Listener] = {}
        self.problems: dict[str, str] = {}
        self._sockets: dict[tuple[Protocol, int], dict[int, Socket]] = {}
        self._ports_of: dict[int, tuple[Protocol, int]] = {}
        clock: Callable[[], float] = asyncio.get_running_loop().time
        self.pools = PortPools(kernel, config.blocks.rest, clock)
        self._blocks = Blocks(config, registry, mirror, self.pools)
        self._remaining = RemainingConnections(self.host, mirror, publisher)
        self.answers = Answers(self.host, self._versions, own, mirror, publisher)
        self._subscription = mirror.subscribe()
        self._hosted_kernel: list[HostedDefinition] = []
        self._reserved = ReservedPorts(Path(config.daemon.state) / "reserved_ports.json")

    # ---- start ----

    async def start(self) -> None:
        """The first whole pass, after the mirror's first listing; then `run` keeps it true."""
        await self._subscription.changed()
        # What waits is older than what follows. With some of it lost, while no daemon read, it
        # would add up to sockets that are not there.
        self._kernel.read()
        self._track(self._kernel.sockets().values())
        adopted = self._kernel.vips()
        for vip in adopted:
            self.pools.adopt(vip)
        # What was in force before the restart is not recorded; the operator's wish is next to it,
        # or what the distributor says, should the store have been emptied.
        known = {d.definition.vip: d.definition for d in self._mirror.cluster.distributing.values()}
        known |= self._mirror.cluster.definitions
        self.hosted = {vip: known[vip] for vip in adopted if vip in known}
        await self._remove_vips(set(adopted) - self.hosted.keys())
        await self._definitions_changed()
        self._reconcile()  # sockets of a definition that changed while nobody was here
        asyncio.get_running_loop().add_reader(self._kernel.fileno(), self._events)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._every(TICK_SECONDS, self._tick))
            tasks.create_task(self._audits())
            tasks.create_task(self._blocks.run())
            tasks.create_task(self.tunnel_end.run())
            tasks.create_task(self._remaining.run(lambda: self.hosted))
            tasks.create_task(self.answers.run())

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._kernel.fileno())

    async def _audits(self) -> None:
        """What nobody told: a VIP taken off lo by hand, a socket whose events went unseen, a write
        that came late."""
        while True:
            await asyncio.sleep(AUDIT_SECONDS)
            await self._add_vips(self.hosted)
            unseen = self._kernel.cookies() != self._ports_of.keys()
            if unseen:
                self._read_sockets()
            # To count all again takes as long as all there are: the loop would stand still.
            if self._catch_up() or unseen:
                self._notify_all()
            if self._mirror.connected and not self._mirror.settling:
                self._publisher.correct(self._mirror.said_by(self.host))

    async def _every(self, seconds: float, act: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            act()

    # ---- the registry changed ----

    async def _follow(self) -> None:
        while True:
            # Listeners alone (touched.ports) make room for a block, or take it: `_tick` is soon
            # enough, and thousands that open at once would make it look as often.
            if _concerns_definitions(await self._subscription.changed()):
                await self._definitions_changed()

    async def _definitions_changed(self) -> None:
        """Programs the definitions that hold now, and counts every socket again (R1-R3).

        The kernel refuses leaks from before a VIP is on `lo` until after it has gone (R8).
        """
        before = self.hosted
        self.hosted, refused = effective(self._mirror.cluster, self.host, self._versions, before)
        for vip, why in refused.items():
            self._problem(f"vip {vip}", why)
        await self._remove_vips(before.keys() - self.hosted.keys())
        self.tunnel_end.host(self.hosted)
        self._blocks.resolve(self.hosted)
        reprogrammed = self._program()
        for vip in self.hosted.keys() - before.keys():
            self.pools.adopt(vip)  # sockets may hold ports of it from before it went
        if reprogrammed:
            await self._add_vips(self.hosted)
        self._reserved.reserve(
            (b.first, b.last) for vip in self.hosted for b in self._blocks.own(vip)
        )
        if self.hosted != before:
            self._reconcile()
        elif reprogrammed:
            self._notify_all()
        self._offer_ports()
        self._blocks.wake()

    def _offer_ports(self) -> None:
        for vip in self.hosted:
            distributing = present_distributor(self._mirror.cluster, vip)
            claims = self._mirror.cluster.claims.values()
            usable = block_rules.handout_blocks(claims, self.host, distributing)
            self.pools.use(vip, usable, self._blocks.fresh(vip))
        self._extend_deadline()

    def _extend_deadline(self) -> None:
        """Ports may be handed out until well before the quarantine ends, counted from the last
        contact; and only by what the registry has said since: blocks may have moved meanwhile."""
        mirror = self._mirror
        if mirror.connected and self._membership.is_seen_in(mirror.cluster):
            self._handout_until = self._membership.contact + self._handout_seconds
            self._kernel.set_deadline(int(self._handout_until * 1e9))
            if not self._is_handout_over():
                self.problems.pop("port blocks", None)

    def _is_handout_over(self) -> bool:
        """The kernel hands no ports out any more (bpf/listen_ports.h)."""
        if now() < self._handout_until:
            return False
        self._problem(
            "port blocks",
            f"the registry has not heard of this host for {self._handout_seconds:.0f} s: others "
            "may soon have its blocks, so bind(VIP, 0) gets EADDRINUSE",
        )
        return True

    def _program(self) -> bool:
        """Whether something had changed."""
        wanted = [
            HostedDefinition(definition, self._blocks.leased(vip), self._blocks.kept(vip))
            for vip, definition in sorted(self.hosted.items(), key=lambda item: item[0].packed)
        ]
        if wanted == self._hosted_kernel:
            return False
        self._kernel.set_definitions(wanted)
        self._hosted_kernel = wanted
        return True

    async def _add_vips(self, vips: Iterable[Address]) -> None:
        for vip in list(vips):
            owner = await netlink.address_owner(vip)
            if owner not in (None, "lo"):
                self._problem(f"vip {vip}", f"it is already an address of {owner} here")
                continue
            try:
                added = await netlink.add_vip(vip)
            except KernelError as error:  # IPv6 is switched off: no reason to fail the other VIPs
                self._problem(f"vip {vip}", str(error))
                continue
            if added:
                log.info("vip %s: on lo, ports %s", vip, self.hosted[vip].ports)
            self.problems.pop(f"vip {vip}", None)

    async def _remove_vips(self, vips: Iterable[Address]) -> None:
        for vip in vips:
            await netlink.delete_vip(vip)
            self.pools.forget(vip)
            self.problems.pop(f"vip {vip}", None)
            log.info("vip %s: removed from lo", vip)

    def _problem(self, what: str, why: str) -> None:
        if self.problems.get(what) != why:
            log.error("%s: %s", what, why)
        self.problems[what] = why

    # ---- the kernel said something ----

    def _events(self) -> None:
        events = self._kernel.read()
        changed: set[tuple[Protocol, int]] = set()
        for event in events.events:
            match event:
                case listen.Opened(socket=socket):
                    self._track([socket])
                    changed.add((socket.protocol, socket.port))
                case listen.Closed(cookie=cookie):
                    port = self._untrack(cookie)
                    changed |= {port} if port else set()
                case listen.Handed():
                    self.pools.on_handed(event.cookie, event.vip, event.protocol, event.port)
                    self._blocks.wake()
                case listen.Freed():
                    self.pools.on_freed(event.cookie, event.vip, event.protocol, event.port)
                case listen.Exhausted(vip=vip) if not self._is_handout_over():
                    self._blocks.exhausted(vip)
        if events.lost:
            log.warning("kernel events were lost; reading again what listens here")
            self._recover()
        elif changed:
            self._notify_ports(changed)

    def _recover(self) -> None:
        self._read_sockets()
        for vip in self.hosted:
            self.pools.adopt(vip)
        self._offer_ports()
        self._reconcile()

    def _read_sockets(self) -> None:
        self._sockets.clear()
        self._ports_of.clear()
        self._track(self._kernel.sockets().values())

    def _reconcile(self) -> None:
        self._catch_up()
        self._notify_all()

    def _catch_up(self) -> bool:
        """The sockets that listen, against those that the kernel programs know; both ways.

        Whether they differed.
        """
        opened, closed = self._kernel.reconcile()
        self._track(opened)
        for cookie in closed:
            self._untrack(cookie)
        return bool(opened or closed)

    def _tick(self) -> None:
        self._extend_deadline()
        self._is_handout_over()
        self.pools.tick()
        self._blocks.wake()

    def _track(self, sockets: Iterable[Socket]) -> None:
        for socket in sockets:
            port = (socket.protocol, socket.port)
            self._sockets.setdefault(port, {})[socket.cookie] = socket
            self._ports_of[socket.cookie] = port

    def _untrack(self, cookie: int) -> tuple[Protocol, int] | None:
        port = self._ports_of.pop(cookie, None)
        if port is not None:
            self._sockets[port].pop(cookie, None)
            if not self._sockets[port]:
                del self._sockets[port]
        return port

    def is_ready(self, vip: Address) -> bool:
        """Whether the VIP is served here, bind(VIP, 0) included if its ports leave any room, and
        all that listens has been told: who restarts the next host may go on."""
        definition = self.hosted.get(vip)
        return (
            definition is not None
            and (self.pools.free(vip) > 0 or not self._blocks.can_fit(definition))
            and not self._publisher.is_behind()
        )

    # ---- telling the distributor ----

    def _count(self, sockets: Iterable[Socket]) -> dict[ListenerKey, Listener]:
        own = {vip: self._blocks.own(vip) for vip in self.hosted}
        return counts.listeners(self.host, self.hosted.values(), sockets, own, user_name)

    def _notify_all(self) -> None:
        want = self._count(s for group in self._sockets.values() for s in group.values())
        self._notify(self.listeners, want)
        self._publisher.owe()

    def _notify_ports(self, ports: set[tuple[Protocol, int]]) -> None:
        have = {
            key: self.listeners[key]
            for vip in self.hosted
            for protocol, port in ports
            if (key := ListenerKey(vip, protocol, port)) in self.listeners
        }
        want = self._count(s for port in ports for s in self._sockets.get(port, {}).values())
        self._notify(have, want)

    def _notify(self, have: dict[ListenerKey, Listener], want: dict[ListenerKey, Listener]) -> None:
        """R4: each opening and closing, once."""
        for notification in counts.notifications(have, want):
            key, listener = notification.key, notification.listener
            entry = str(ListenerEntryKey(self.host, key.vip, key.protocol, key.port))
            if listener is None:
                self.listeners.pop(key, None)
                self._publisher.delete(entry)
            else:
                self.listeners[key] = listener
                self._publisher.set(entry, values.encode(listener))


def _concerns_definitions(touched: Touched) -> bool:
    return bool(touched.definitions or touched.distributing or touched.claims)


@lru_cache(maxsize=1024)
def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
