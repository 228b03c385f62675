# SPDX-License-Identifier: Apache-2.0
"""The loop of a candidate: is it elected, what it publishes, what it programs (R1, R5-R7)."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from anyport.config import Config
from anyport.decide import routes as rules
from anyport.decide.blocks import as_published, refuse, refused_by
from anyport.decide.definitions import acceptable
from anyport.decide.election import elect, is_active, next_term, successor, why_no_candidate
from anyport.decide.tables import HostRow
from anyport.distributor.handover import Handover
from anyport.distributor.hops import Choices, all_choices, host_rows, tell_changes
from anyport.distributor.lan import Lan
from anyport.distributor.peers import peers
from anyport.distributor.programmer import Programmer
from anyport.distributor.quarantine import Quarantine
from anyport.errors import RegistryError
from anyport.kernel.abi import ConnectionState
from anyport.kernel.connections import ConnectionRow, now_ns
from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.netlink import Interface
from anyport.kernel.routes import Routes
from anyport.model import Candidacy, Definition, Distributing, PortKey, Protocol
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.base import Registry
from anyport.registry.keys import CandidacyKey, DistributingKey
from anyport.registry.membership import Membership
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher
from anyport.registry.touched import Touched

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
HANDED_ON_SECONDS = 0.02  # between two looks whether a successor has announced itself
# How long a silent connection counts as live: of a SYN nobody answered, and after a FIN or RST.
NEW_SECONDS = 60.0
CLOSING_SECONDS = 5.0


@dataclass
class Office:
    """A tenure: what this host publishes for a VIP, and whether it answers for it yet.

    `refused`: create_revisions of all claims that are, those that the
    publication has no room to name included.
    """

    published: Distributing
    blocks: rules.BlockIndex
    refused: frozenset[int]
    answering: bool = False
    rivals: set[str] = field(default_factory=set)


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
    ) -> None:
        self.host = config.host.name
        self._config = config
        self._kernel = kernel
        self._interface = interface
        self._here = config.host.described()
        self._routes = routes
        routes.on_change(self._routes_changed)
        self._registry = registry
        self._mirror = mirror
        self._publisher = publisher
        self._membership = membership
        membership.on_lost = self._lose_offices
        self._subscription = mirror.subscribe()
        self.offices: dict[Address, Office] = {}
        self.problems: dict[str, str] = {}
        self.choices: Choices = {}
        self._hosts: dict[str, HostRow] = {}
        self._drained: set[str] = set()
        self._staying: frozenset[Address] | None = None
        """On leaving: the VIPs that nobody else could have."""
        self._quarantine = Quarantine(self.host, config.blocks.quarantine, registry, mirror)
        self._lan = Lan(interface, lambda vip, why: self._problem(f"vip {vip}", why))
        self._handover = Handover(
            lambda vip: self.programmer.fenced(vip), self._close, asyncio.get_running_loop().time
        )

    # ---- start and stop ----

    async def start(self) -> None:
        """Adopts what the kernel has; nothing is decided before the first complete listing."""
        await self._subscription.changed()
        hosts = self._mirror.cluster.hosts.items()
        names = {address: name for name, host in hosts for address in host.addresses}
        self.programmer = Programmer(self._kernel, names)
        self._hosts = await self._host_rows()
        self._drained = self._drained_now()
        self._tell_peers()
        self._stand()
        for (vip, host), mine in self._mirror.cluster.distributing.items():
            if host == self.host:  # resumed with the lease; an election decides what becomes of it
                key = str(DistributingKey(host, vip))
                self._publisher.set(key, values.encode(mine))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._ticks())

    async def leave(self) -> None:
        """A polite stop: what another host can distribute is handed on, and this returns when the
        other has announced itself. The loop runs on meanwhile: it sees the elections."""
        self._staying = frozenset(vip for vip in self.offices if self._successor(vip) is None)
        handed_on = self.offices.keys() - self._staying
        self._stand()
        for vip in handed_on:
            await self._until_handed_on(vip)

    async def _until_handed_on(self, vip: Address) -> None:
        """Looks often: the packet program tells nobody what it hears."""
        while True:
            if self._is_handed_on(vip):
                return
            await asyncio.sleep(HANDED_ON_SECONDS)

    def _is_handed_on(self, vip: Address) -> bool:
        if vip in self.offices:
            return False
        return vip not in self.programmer.vips or self.programmer.fenced(vip)

    # ---- the registry changed ----

    async def _follow(self) -> None:
        await self._elections(self._vips())
        while True:
            touched = await self._subscription.changed()
            # A KernelError ends the daemon: what the maps hold is then unknown, and a restart
            # adopts it. Packets go on meanwhile.
            await self._react(touched)

    async def _react(self, touched: Touched) -> None:
        hosts = await self._host_rows() if touched.hosts else self._hosts
        if touched.definitions or touched.hosts:
            self._stand()
            for vip in touched.definitions - self._mirror.cluster.definitions.keys():
                self._publisher.delete(str(CandidacyKey(self.host, vip)))
        drained = self._drained_now()
        changed = (hosts, drained) != (self._hosts, self._drained)
        moved = {vip for vip in self.offices if changed or vip in touched.claims}
        self._hosts, self._drained = hosts, drained
        if touched.first:
            moved |= self.offices.keys()
        for vip in moved | (touched.definitions & self.offices.keys()):
            await self._redistribute(vip)
        self._ports_changed((vip, key) for vip, key in touched.ports if vip not in moved)
        for vip in touched.distributing & self.offices.keys():
            self._answer_rivals(vip)
        if touched.definitions or touched.hosts:
            self._tell_peers()
        if touched.definitions or touched.candidacies or touched.distributing or touched.hosts:
            await self._elections(self._vips())

    def _vips(self) -> set[Address]:
        return {*self._mirror.cluster.definitions, *self.offices, *self.programmer.vips}

    def _stand(self) -> None:
        """Candidate for every VIP whose definition allows this host."""
        for vip, definition in self._definitions().items():
            key = str(CandidacyKey(self.host, vip))
            if self.why_no_candidate(definition) is None:
                value = values.encode(Candidacy(vip, self.host, self._config.distributor.rank, 0))
                if self._publisher.wanted(key) != value:
                    self._publisher.set(key, value)
            else:
                self._publisher.delete(key)

    def why_no_candidate(self, definition: Definition) -> str | None:
        """None: this host is one."""
        if self._staying is not None and definition.vip not in self._staying:
            return "its daemon stops"
        wish = self._config.distributor.candidate
        seen = self._mirror.cluster.hosts.get(self.host)  # which the operator may have drained
        here = self._here if seen is None else replace(self._here, state=seen.state)
        return why_no_candidate(definition, here, wish, self._routes.on_link)

    def _successor(self, vip: Address) -> str | None:
        definition, cluster = self._definitions().get(vip), self._mirror.cluster
        if definition is None:
            return None
        return successor(definition, self.host, cluster.candidacies.values(), cluster.hosts)

    def _drained_now(self) -> set[str]:
        return {name for name, host in self._mirror.cluster.hosts.items() if not is_active(host)}

    async def _elections(self, vips: Iterable[Address]) -> None:
        if not self._membership.is_seen_in(self._mirror.cluster):
            return  # the lease was lost, and what others did meanwhile is yet to be seen
        for vip in vips:
            elected = self._elected(vip)
            if elected == self.host and vip not in self.offices:
                await self._take_office(vip)
            elif elected != self.host:
                self._resign(vip, elected)

    def _definitions(self) -> dict[Address, Definition]:
        """The operator's wishes that may be in force; the agents report the others."""
        cluster = self._mirror.cluster
        return acceptable(cluster.definitions.values(), cluster.hosts, self.offices.keys())[0]

    def _elected(self, vip: Address) -> str | None:
        cluster = self._mirror.cluster
        definition = self._definitions().get(vip)
        if definition is None:
            return None
        return elect(
            definition,
            cluster.candidacies.values(),
            cluster.hosts,
            cluster.distributing.values(),
        )

    # ---- tenure ----

    async def _take_office(self, vip: Address) -> None:
        """Program everything, publish, and only then answer: nothing is refused in between."""
        cluster = self._mirror.cluster
        definition = cluster.definitions[vip]
        before = cluster.distributing.get((vip, self.host))
        terms = [d.term for (v, _), d in cluster.distributing.items() if v == vip]
        term = before.term if before is not None else next_term(terms, cluster.revision)
        self._handover.give_up(vip)
        self.programmer.open(vip)
        published = before or Distributing(self.host, term, definition, 0)
        refused = refused_by(published, cluster.claims.values())
        blocks = rules.BlockIndex((), vip)
        office = Office(replace(published, definition=definition), blocks, refused)
        self.offices[vip] = office
        self._program_all(vip, office)
        await self._publish(vip, office)
        if self.offices.get(vip) is not office:
            return  # the lease went meanwhile, and with it the publication
        self._tell_peers()
        self._lan.hear(vip)
        self.programmer.answer(office.published.definition, self._interface.mac)
        office.answering = True
        log.info("vip %s: distributing, term %d, ports %s", vip, term, definition.ports)
        self._lan.announce(vip)

    def _lose_offices(self) -> None:
        """The lease went, and with it what was published: another host may have been elected.
        Packets go on through here until it has announced itself; then an election decides."""
        for vip, office in self.offices.items():
            self._publisher.delete(str(DistributingKey(self.host, vip)))
            self._lan.stop_announcing(vip)
            log.warning("vip %s: term %d ended with the lease", vip, office.published.term)
        self.offices.clear()

    def _resign(self, vip: Address, elected: str | None) -> None:
        """Another host has the VIP, or nobody is to have it."""
        office = self.offices.pop(vip, None)
        self._publisher.delete(str(DistributingKey(self.host, vip)))
        if office is not None:
            log.info("vip %s: term %d ends", vip, office.published.term)
        self.problems.pop(f"vip {vip}", None)
        self._lan.stop_announcing(vip)
        published = {h for v, h in self._mirror.cluster.distributing if v == vip}
        if vip not in self._mirror.cluster.definitions:
            self._close(vip)
        elif vip in self.programmer.vips and published - {self.host}:
            self._handover.begin(vip)
        else:  # until a successor has published, packets had better go on through here
            self._handover.give_up(vip)

    def _close(self, vip: Address) -> None:
        self._handover.give_up(vip)
        self.programmer.close(vip)
        self._tell_peers()
        self._lan.ignore(vip)

    async def _redistribute(self, vip: Address) -> None:
        definition = self._mirror.cluster.definitions.get(vip)
        office = self.offices.get(vip)
        if definition is None or office is None:  # or lost while another VIP was programmed
            return
        office.published = replace(office.published, definition=definition)
        self._program_all(vip, office)
        if office.answering:
            self.programmer.refresh(definition, self._interface.mac)
        await self._publish(vip, office)

    def _program_all(self, vip: Address, office: Office) -> None:
        cluster = self._mirror.cluster
        definition = office.published.definition
        office.refused = self._refused(vip, office)
        office.blocks = rules.block_index(cluster, vip, office.refused)
        routes = rules.routes(cluster, definition, office.refused)
        self.programmer.replace(vip, definition.method, routes, self._hosts)
        named, limits = as_published(cluster.claims.values(), office.refused)
        if limits - office.published.limits:
            hosts = ", ".join(sorted(host for host, _ in limits))
            log.warning(
                "vip %s: %d claims refused, too many of %s", vip, len(office.refused), hosts
            )
        office.published = replace(
            office.published, programmed_revision=cluster.revision, refused=named, limits=limits
        )

    def _refused(self, vip: Address, office: Office) -> frozenset[int]:
        """The claims on ports where other hosts' connections or listeners live; for as long as
        these claims stand."""
        claims = [c for c in self._mirror.cluster.claims.values() if c.block.vip == vip]
        routed = office.published.programmed_revision
        before = office.refused & {claim.create_revision for claim in claims}
        if all(claim.create_revision <= routed for claim in claims):
            return before  # without a walk over the connection table
        # Claimants that are away just now, too: else their own connections would refuse them.
        known = {*self._mirror.cluster.hosts, *(claim.host for claim in claims)}
        names = {self.slot(name): name for name in known}
        live = [(c.port, names.get(c.slot)) for c in self.live_connections() if c.vip == vip]
        # A listener that its claimant had not heard of yet: the claim came between.
        notified = self._mirror.cluster.listeners.get(vip, {})
        live += [(port, host) for (_, port), by_host in notified.items() for host in by_host]
        return before | refuse(claims, live, routed)

    async def _publish(self, vip: Address, office: Office) -> None:
        key = str(DistributingKey(self.host, vip))
        self._publisher.set(key, values.encode(office.published))
        await self._publisher.flushed([key])

    def _ports_changed(self, changed: Iterable[tuple[Address, PortKey]]) -> None:
        by_vip: dict[Address, list[PortKey]] = {}
        for vip, port in changed:
            if vip in self.offices:
                by_vip.setdefault(vip, []).append(port)
        for vip, ports in by_vip.items():
            self._route(vip, self.offices[vip], ports)

    def _route(self, vip: Address, office: Office, ports: Iterable[PortKey]) -> None:
        cluster, definition = self._mirror.cluster, office.published.definition
        listeners = cluster.listeners.get(vip, {})
        routes = {
            port: rules.route(
                port,
                listeners.get(port, {}),
                definition,
                cluster.hosts,
                office.blocks.owner(port[1]),
            )
            for port in ports
        }
        self.programmer.change(vip, definition.method, routes, self._hosts)

    async def _host_rows(self) -> dict[str, HostRow]:
        """Of the hosts as they were before the look-up: those that come meanwhile have a turn
        of their own."""
        hosts = dict(self._mirror.cluster.hosts)
        await self._routes.know_hosts(hosts)
        chosen = all_choices(hosts, self._here, self._routes.to, self._interface.index)
        tell_changes(self.choices, chosen)
        self.choices = chosen
        return host_rows(hosts, chosen)

    def _routes_changed(self) -> None:
        """The paths to hosts, or for which VIPs this one is a candidate."""
        self._subscription.add(Touched(hosts=set(self._mirror.cluster.hosts)))

    def _tell_peers(self) -> None:
        cluster = self._mirror.cluster
        vips = self.programmer.vips
        self.programmer.tell_peers(peers(cluster.hosts.values(), cluster.definitions, vips))

    # ---- the LAN ----

    def _answer_rivals(self, vip: Address) -> None:
        """A host that published the VIP beside us has announced it; so do we, now that it has
        come or gone, or its neighbours would stay with it."""
        office = self.offices[vip]
        rivals = {h for v, h in self._mirror.cluster.distributing if v == vip} - {self.host}
        if rivals != office.rivals and office.answering:
            self._lan.announce(vip)
        office.rivals = rivals

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._handover.tick()
            try:
                for vip in list(self.offices):
                    await self._check_fence(vip)
                await self._quarantine.tick(self.offices.keys())
            except RegistryError as error:
                log.debug("tick: %s", error)

    async def _check_fence(self, vip: Address) -> None:
        """Only a registry that answers now, and says so, lifts a fence: else another host has it.

        What the mirror shows may be seconds old. While our publication has stood without a gap
        since we took office, nobody else was elected.
        """
        office = self.offices.get(vip)
        if office is None:  # lost with the lease, while another VIP was looked at
            return
        if not self.programmer.fenced(vip):
            self.problems.pop(f"vip {vip}", None)
            return
        self._problem(f"vip {vip}", "another machine on the LAN announced it")
        key = str(DistributingKey(self.host, vip))
        present = {e.key: e.value for e in (await self._registry.list(key)).entries}
        stands = present.get(key) == values.encode(office.published)
        if stands and self.offices.get(vip) is office:
            self.programmer.answer(office.published.definition, self._interface.mac)
            self._lan.announce(vip)

    def _problem(self, what: str, why: str) -> None:
        if self.problems.get(what) != why:
            log.error("%s: %s", what, why)
        self.problems[what] = why

    def slot(self, host: str) -> int | None:
        return self.programmer.slot(host)

    def live_connections(self) -> Iterator[ConnectionRow]:
        """Of the connection table, without what is over as far as the client's packets tell."""
        now = now_ns()
        return (c for c in self._kernel.connections() if self._is_live(c, (now - c.seen_ns) / 1e9))

    def _is_live(self, connection: ConnectionRow, idle_seconds: float) -> bool:
        office = self.offices.get(connection.vip)
        if connection.protocol is Protocol.UDP:
            return office is not None and idle_seconds < office.published.definition.udp_idle
        longest = {
            ConnectionState.NEW: NEW_SECONDS,
            ConnectionState.CLOSING: CLOSING_SECONDS,
            ConnectionState.RESET: CLOSING_SECONDS,
        }
        return idle_seconds < longest.get(connection.state, math.inf)
