# SPDX-License-Identifier: Apache-2.0
"""The loop of a candidate: is it elected, what it publishes, what it programs (R1, R5-R7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from anyport.config import Config
from anyport.decide import routes as rules
from anyport.decide.election import next_term
from anyport.decide.tables import HostRow
from anyport.distributor.absent import AbsentHosts, Returning
from anyport.distributor.asking import Asking
from anyport.distributor.candidacies import Candidacies
from anyport.distributor.handover import Handover, until
from anyport.distributor.hops import Choices, Paths
from anyport.distributor.lan import Lan
from anyport.distributor.live import live
from anyport.distributor.office import Office
from anyport.distributor.peers import peers
from anyport.distributor.programmer import Programmer
from anyport.distributor.pulse import Pulse
from anyport.distributor.quarantine import Quarantine
from anyport.distributor.rivals import Rivals
from anyport.distributor.unheard import Unheard
from anyport.errors import RegistryError
from anyport.kernel.connections import ConnectionRow
from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.netlink import Interface
from anyport.kernel.routes import Routes
from anyport.model import Definition, Distributing, Host, PortKey
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.base import Registry
from anyport.registry.keys import DistributingKey
from anyport.registry.membership import Membership
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher
from anyport.registry.touched import Touched

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0

LOOK_SECONDS = 0.05

MOST_DOUBT_SECONDS = 5.0
"""A host that has no lease for so long does as the registry says, and so does one whose lease
cannot be renewed, though it hears of others."""


class Distributor:
    """Distributes the VIPs for which this host is elected."""

    def __init__(
        self,
        config: Config,
        kernel: DistributorKernel,
        interface: Interface,
        routes: Routes,
        registry: Registry,
        mirror: Mirror,
        publisher: Publisher,
        membership: Membership,
        known_hosts: Path,
    ) -> None:
        """`known_hosts`: a file, see AbsentHosts."""
        self.host = config.host.name
        self._config = config
        self._kernel = kernel
        self._interface = interface
        self._clock = clock = asyncio.get_running_loop().time
        quarantine = config.blocks.quarantine
        self._absent = AbsentHosts(self.host, known_hosts, quarantine, clock)
        self._returning = Returning(self._absent, clock)
        self._pulse = Pulse(interface, clock)
        here = config.host.described()
        self._paths = Paths(here, interface.index, routes, self._all_hosts)
        routes.on_change(self._routes_changed)
        self._registry = registry
        self._mirror = mirror
        self._publisher = publisher
        self._membership = membership
        membership.on_lost = self._lose_offices
        self._subscription = mirror.subscribe()
        self.offices: dict[Address, Office] = {}
        self.problems: dict[str, str] = {}
        self._hosts: dict[str, HostRow] = {}
        self._active: set[str] = set()
        self._candidacies = Candidacies(
            config, routes, mirror, publisher, lambda: self.offices.keys()
        )
        self._quarantine = Quarantine(self.host, quarantine, registry, mirror)
        self._lan = Lan(interface, self._holds, self._vip_problem)
        elected, mac = self._candidacies.elected, interface.mac
        self._rivals = Rivals(
            self.host, registry, mirror, self._lan, elected, mac, self._vip_problem
        )
        self._handover = Handover(
            lambda vip: self.programmer.fenced(vip),
            lambda vip, mac: self.programmer.fence(vip, mac),
            self._close,
            clock,
        )
        unheard = Unheard(lambda: mirror.cluster, self._absent, quarantine, clock)
        self._asking = Asking(
            mirror,
            self._returning,
            unheard,
            lambda: self.programmer,
            self.offices,
            self._say,
            lambda vip: self._subscription.add(Touched(connections={vip})),
        )

    # ---- start and stop ----

    async def start(self) -> None:
        """Adopts what the kernel has; nothing is decided before the first complete listing."""
        await self._subscription.changed()
        self._absent.follow(self._mirror.cluster.hosts)
        hosts = self._all_hosts().items()
        names = {address: name for name, host in hosts for address in host.addresses}
        self.programmer = Programmer(self._kernel, names)
        self._handover.unwatched(self.programmer.vips.keys())
        self._hosts = await self._paths.host_rows()
        self._active = self._candidacies.active()
        self._tell_peers()
        self._candidacies.stand()
        for (vip, host), mine in self._mirror.cluster.distributing.items():
            if host == self.host:  # resumed with the lease; an election decides what becomes of it
                key = str(DistributingKey(host, vip))
                self._publisher.set(key, values.encode(mine))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._ticks())

    async def leave(self) -> frozenset[Address]:
        """A polite stop: what another host can distribute is handed on, and this returns it when
        the other has announced itself. The loop runs on meanwhile: it sees the elections."""
        handed_on = self._candidacies.leave()
        await until(lambda: all(map(self._is_handed_on, handed_on)))
        return handed_on

    def _is_handed_on(self, vip: Address) -> bool:
        if vip in self.offices:
            return False
        return vip not in self.programmer.vips or self.programmer.fenced(vip)

    # ---- the registry changed ----

    async def _follow(self) -> None:
        await self._elections(self._vips())
        while True:
            touched = await self._subscription.changed()
            if touched.hosts:  # with a lease all goes that its host said
                await self._sure()
            # A KernelError ends the daemon: what the maps hold is then unknown, and a restart
            # adopts it. Packets go on meanwhile.
            await self._react(touched)

    async def _sure(self) -> None:
        """Leases that ended as the registry answered nobody, this host's own among them, are no
        reason to take a target out: who lives says again what it has, and the former state serves
        everybody meanwhile. While the registry is away nothing is gone that was there."""
        deadline = self._clock() + MOST_DOUBT_SECONDS
        while self._mirror.connected and self._clock() < deadline:
            seen = self._membership.is_seen_in(self._mirror.cluster)
            if seen and not self._membership.is_in_doubt():
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _react(self, touched: Touched) -> None:
        if touched.hosts:
            self._absent.follow(self._mirror.cluster.hosts)
        hosts = await self._paths.host_rows() if touched.hosts else self._hosts
        if touched.definitions or touched.hosts:
            self._candidacies.stand()
            for vip in touched.definitions - self._mirror.cluster.definitions.keys():
                self._candidacies.withdraw(vip)
        active = self._candidacies.active()
        changed = (hosts, active) != (self._hosts, self._active)
        moved = {vip for vip in self.offices if changed or vip in touched.claims}
        self._hosts, self._active = hosts, active
        if touched.first:
            moved |= self.offices.keys()
        for vip in moved | (touched.definitions & self.offices.keys()):
            self._redistribute(vip)
        self._ports_changed((vip, key) for vip, key in touched.ports if vip not in moved)
        for vip in touched.distributing & self.offices.keys():
            self._rivals.answer(self.offices[vip])
        gathered = self.offices.keys() if touched.hosts else touched.definitions
        self._asking.follow({*gathered, *touched.connections})
        if touched.definitions or touched.hosts:
            self._tell_peers()
        if touched.hosts or touched.definitions:
            self._asking.follow_absent()
        if touched.definitions or touched.candidacies or touched.distributing or touched.hosts:
            await self._elections(self._vips())

    def _waits(self, vip: Address, awaited: Collection[str]) -> bool:
        """For hosts that may have its listeners and connections; not with what this host has gone
        on distributing."""
        cluster = self._mirror.cluster
        allows = cluster.definitions[vip].allows
        return (vip, self.host) not in cluster.distributing and any(map(allows, awaited))

    def _all_hosts(self) -> dict[str, Host]:
        """The members, and those that were: what is theirs alone goes to them."""
        return {**self._absent.hosts, **self._mirror.cluster.hosts}

    def _vips(self) -> set[Address]:
        return {*self._mirror.cluster.definitions, *self.offices, *self.programmer.vips}

    async def _elections(self, vips: Iterable[Address]) -> None:
        for vip in vips:
            if not self._membership.is_seen_in(self._mirror.cluster):
                return  # the lease was lost, and what others did meanwhile is yet to be seen
            awaited = self._returning.awaited()  # from its joining on, elected or not
            elected = self._candidacies.elected(vip)
            if elected == self.host and vip not in self.offices:
                if not self._waits(vip, awaited):
                    await self._take_office(vip)
                    self._asking.follow(self.offices)
            elif elected != self.host:
                self._resign(vip, elected)

    @property
    def choices(self) -> Choices:
        """How this host sends to each, and why so."""
        members = self._mirror.cluster.hosts
        return {name: c for name, c in self._paths.choices.items() if name in members}

    def why_no_candidate(self, definition: Definition) -> str | None:
        """None: this host is one."""
        return self._candidacies.why_none(definition)

    # ---- tenure ----

    async def _take_office(self, vip: Address) -> None:
        """Program everything, publish, and only then answer: nothing is refused in between."""
        cluster = self._mirror.cluster
        definition = cluster.definitions[vip]
        before = cluster.distributing.get((vip, self.host))
        terms = [d.term for (v, _), d in cluster.distributing.items() if v == vip]
        term = before.term if before is not None else next_term(terms, cluster.revision)
        self._handover.own(vip)
        known = self.programmer.open(vip)
        published = before or Distributing(self.host, term, definition, 0)
        gathers = before is None or before.gathering or not known
        office = Office.take(replace(published, definition=definition, gathering=False), cluster)
        self.offices[vip] = office
        self._program_all(office)
        await self._publish(office)
        if office.ended:
            return  # the lease went meanwhile, and with it the publication
        self._tell_peers()
        self._lan.hear(vip)
        self._absent.follow(cluster.hosts)  # some may have gone while it was published
        self.programmer.answer(
            definition, self._interface.mac, self._asking.begin(definition, anew=gathers)
        )
        office.answering = True
        log.info("vip %s: distributing, term %d, ports %s", vip, term, definition.ports)
        self._lan.announce(vip)
        if gathers:
            self._asking.ask(office)

    def _lose_offices(self) -> None:
        """The lease went, and with it what was published: another host may have been elected.
        Packets go on through here until it has announced itself; then an election decides."""
        for vip, office in self.offices.items():
            office.ended = True
            self._publisher.delete(str(DistributingKey(self.host, vip)))
            self._lan.stop_announcing(vip)
            self._asking.end(vip)
            log.warning("vip %s: term %d ended with the lease", vip, office.published.term)
        self._handover.unwatched(self.offices.keys())
        self.offices.clear()
        self._returning.joined()

    def _resign(self, vip: Address, elected: str | None) -> None:
        """Another host has the VIP, or nobody is to have it."""
        office = self.offices.pop(vip, None)
        self._asking.end(vip)
        self._publisher.delete(str(DistributingKey(self.host, vip)))
        if office is not None:
            office.ended = True
            log.info("vip %s: term %d ends", vip, office.published.term)
        self.problems.pop(f"vip {vip}", None)
        self._lan.stop_announcing(vip)
        cluster = self._mirror.cluster
        published = {host for of, host in cluster.distributing if of == vip} - {self.host}
        if vip not in cluster.definitions:
            self._close(vip)
        elif vip in self.programmer.vips and published:
            successor = cluster.hosts.get(elected or "") if elected in published else None
            self._handover.begin(vip, successor.mac if successor else b"")
        else:  # until a successor has published, packets had better go on through here
            self._handover.give_up(vip)

    def _close(self, vip: Address) -> None:
        self._handover.give_up(vip)
        self.programmer.close(vip)
        self._tell_peers()
        self._lan.ignore(vip)

    def _redistribute(self, vip: Address) -> None:
        """Told when etcd takes it: what changes while it is away is programmed all the same."""
        definition = self._mirror.cluster.definitions.get(vip)
        office = self.offices.get(vip)
        if definition is None or office is None:  # or lost while another VIP was programmed
            return
        office.published = replace(office.published, definition=definition)
        self._program_all(office)
        if office.answering:
            self.programmer.refresh(definition, self._interface.mac)
        self._say(office)

    def _program_all(self, office: Office) -> None:
        cluster, definition = self._mirror.cluster, office.definition
        office.judge_claims(cluster, self.live_connections, self.slot)
        routes = rules.routes(cluster, definition, office.refused)
        self.programmer.replace(office.vip, definition.method, routes, self._hosts)

    def _say(self, office: Office) -> None:
        key = str(DistributingKey(self.host, office.vip))
        self._publisher.set(key, values.encode(office.published))

    async def _publish(self, office: Office) -> None:
        self._say(office)
        await self._publisher.flushed([str(DistributingKey(self.host, office.vip))])

    def _ports_changed(self, changed: Iterable[tuple[Address, PortKey]]) -> None:
        by_vip: dict[Address, list[PortKey]] = {}
        for vip, port in changed:
            if vip in self.offices:
                by_vip.setdefault(vip, []).append(port)
        for vip, ports in by_vip.items():
            self._route(vip, self.offices[vip], ports)

    def _route(self, vip: Address, office: Office, ports: Iterable[PortKey]) -> None:
        routes = office.routes(self._mirror.cluster, ports)
        self.programmer.change(vip, office.definition.method, routes, self._hosts)

    def _routes_changed(self) -> None:
        """The paths to hosts, or for which VIPs this one is a candidate."""
        self._subscription.add(Touched(hosts=set(self._mirror.cluster.hosts)))

    def _tell_peers(self) -> None:
        hosts, definitions = self._all_hosts().values(), self._mirror.cluster.definitions
        self.programmer.tell_peers(peers(hosts, definitions, self.programmer.vips))

    # ---- by and by ----

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._handover.tick()
            if self._absent.follow(self._mirror.cluster.hosts) or self._returning.is_over():
                self._subscription.add(Touched(hosts={self.host}))
            absent = self._asking.stand_ins() & self._absent.absent.keys()
            self._asking.dead(await self._pulse.dead(absent, self._paths.choices))
            self._asking.follow_absent()
            try:
                for office in list(self.offices.values()):
                    await self._rivals.check_fence(office, self.programmer)
                await self._quarantine.tick(self.offices.keys())
            except RegistryError as error:
                log.debug("tick: %s", error)

    def _holds(self, vip: Address) -> bool:
        """Whether nobody else can have been elected: the VIP may be announced again."""
        held = vip in self.offices and self._membership.is_certain()
        return held and not self.programmer.fenced(vip)

    def _vip_problem(self, vip: Address, why: str) -> None:
        """Told once; empty: there is none any more."""
        what = f"vip {vip}"
        if not why:
            self.problems.pop(what, None)
            return
        if self.problems.get(what) != why:
            log.error("%s: %s", what, why)
        self.problems[what] = why

    @property
    def is_up_to_date(self) -> bool:
        """Whether the maps have what the cluster shows, of the VIPs that are distributed here."""
        return self._subscription.is_followed

    def slot(self, host: str) -> int | None:
        return self.programmer.slot(host)

    def live_connections(self) -> Iterator[ConnectionRow]:
        """Of the connection table, without what is over as far as the client's packets tell."""
        return live(self._kernel.connections(), self._definition)

    def _definition(self, vip: Address) -> Definition | None:
        office = self.offices.get(vip)
        return None if office is None else office.definition
