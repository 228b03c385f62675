# SPDX-License-Identifier: Apache-2.0
"""A cluster made of the pure core alone: sockets in, port table and simulated maps out.

It does what the agent and the distributor do with the same functions, one
event at a time, without kernel, registry or clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from anyport.decide.blocks import handout_blocks, next_block
from anyport.decide.counts import listeners, notifications
from anyport.decide.routes import BlockIndex, route, routes
from anyport.decide.tables import NO_HOP, Hop, HostRow, Path, Sizes, Tables, plan, replacing
from anyport.model import (
    Claim,
    Cluster,
    Definition,
    Distributing,
    Host,
    HostState,
    Listener,
    ListenerKey,
    Notification,
    PortBlock,
    PortKey,
    Protocol,
    Route,
    Socket,
)
from anyport.model.definition import Address
from tests.support.data_plane import DataPlane

FIRST_BLOCK_PORT, LAST_BLOCK_PORT, BLOCK_SIZE = 40000, 40031, 4


@dataclass
class Machine:
    """`sockets` is the truth; `seen` what the agent knows of it."""

    name: str
    sockets: dict[int, Socket] = field(default_factory=dict)
    seen: dict[int, Socket] = field(default_factory=dict)
    notified: dict[ListenerKey, Listener] = field(default_factory=dict)
    losing_records: bool = False


class PureCluster:
    def __init__(self, sizes: Sizes | None = None) -> None:
        self.revision = 0
        self.machines: dict[str, Machine] = {}
        self.hosts: dict[str, Host] = {}
        self.definitions: dict[Address, Definition] = {}
        self.listeners: defaultdict[Address, dict[PortKey, dict[str, Listener]]]
        self.listeners = defaultdict(dict)
        self.claims: dict[tuple[str, PortBlock], Claim] = {}
        self.published: dict[Address, int] = {}
        self.maps = DataPlane()
        self.names: dict[Address, str] = {}
        self._sizes = sizes
        self._tables = Tables(sizes)
        self._cookie = 0

    # ---- what happens to hosts ----

    def join(self, name: str, weight: int = 100) -> None:
        """A host starts, or its daemon restarts: it dumps and notifies what differs."""
        machine = self.machines.setdefault(name, Machine(name))
        known = {n: a for a, n in self.names.items()}
        address = known.get(name, IPv4Address(f"10.0.0.{len(known) + 1}"))
        self.names[address] = name
        self.hosts[name] = Host(name, address, weight)
        self._changed_hosts()
        self.reconcile(machine.name)

    def crash(self, name: str) -> None:
        """The machine is gone, its lease too; its claims stay until their quarantine ends."""
        machine = self.machines[name]
        self.hosts.pop(name, None)
        self._notify(machine, [Notification(key, None) for key in machine.notified])
        self.machines[name] = Machine(name)
        self._changed_hosts()

    def drain(self, name: str) -> None:
        self.hosts[name] = replace(self.hosts[name], state=HostState.DRAINING)
        self._changed_hosts()

    # ---- what programs do ----

    def open(
        self,
        name: str,
        address: Address,
        protocol: Protocol,
        port: int,
        process: str = "",
        takes_ipv4: bool = True,
    ) -> Socket:
        self._cookie += 1
        socket = Socket(
            self._cookie, address, protocol, port, process=process, takes_ipv4=takes_ipv4
        )
        machine = self.machines[name]
        machine.sockets[socket.cookie] = socket
        if not machine.losing_records:
            machine.seen[socket.cookie] = socket
            self._evaluate(machine, socket)
        return socket

    def close(self, name: str, cookie: int) -> None:
        machine = self.machines[name]
        socket = machine.sockets.pop(cookie)
        if not machine.losing_records:
            machine.seen.pop(cookie)
            self._evaluate(machine, socket)

    def bind_zero(self, name: str, vip: Address, protocol: Protocol) -> Socket | None:
        """None: EADDRINUSE. The port is checked to be routed before it is handed out."""
        machine = self.machines[name]
        used = {s.port for s in machine.sockets.values()}
        for block in handout_blocks(self.claims.values(), name, self._distributing(vip)):
            for port in range(block.first, block.last + 1):
                if port not in used:
                    assert self.reach(vip, (protocol, port)) == {name}
                    return self.open(name, vip, protocol, port)
        return None

    # ---- what agents do ----

    def lose_records(self, name: str) -> None:
        self.machines[name].losing_records = True

    def reconcile(self, name: str) -> None:
        machine = self.machines[name]
        machine.losing_records = False
        machine.seen = dict(machine.sockets)
        if name in self.hosts:
            self._evaluate_all(machine)

    def claim(self, name: str, vip: Address) -> PortBlock | None:
        block = next_block(
            self.definitions[vip],
            self.claims.values(),
            {port for _, port in self.listeners[vip]} | self._bound_ports(),
            host=name,
            size=BLOCK_SIZE,
            first=FIRST_BLOCK_PORT,
            last=LAST_BLOCK_PORT,
        )
        if block is not None:
            self.revision += 1
            self.claims[name, block] = Claim(block, name, self.revision)
            self._program_all(vip)
        return block

    # ---- what the distributor does ----

    def define(self, definition: Definition) -> None:
        self.definitions[definition.vip] = definition
        for machine in self._alive():
            self._evaluate_all(machine)
        self._program_all(definition.vip)

    def publish(self, vip: Address) -> None:
        """Everything up to the present revision is programmed."""
        self.published[vip] = self.revision

    def take_over(self) -> None:
        """A new distributor, with empty maps."""
        self.maps = DataPlane()
        self._tables = Tables(self._sizes)
        self._changed_hosts()

    def restart_distributor(self) -> None:
        """The same one reads what its maps hold, and goes on."""
        self._tables = Tables.adopt(
            self.maps.hosts, self.maps.selections, self.maps.routes, self.names, self._sizes
        )
        self._changed_hosts()

    # ---- what can be seen ----

    def table(self, vip: Address) -> dict[PortKey, Route]:
        return routes(self._cluster(), self.definitions[vip])

    def reach(self, vip: Address, key: PortKey) -> frozenset[str]:
        """The hosts that a new connection may be given, by the maps."""
        found = self.maps.reach(self._vip_index(vip), key)
        return frozenset(self.names[address] for address in found)

    def own_blocks(self, name: str) -> dict[Address, list[PortBlock]]:
        found: dict[Address, list[PortBlock]] = {}
        for claim in self.claims.values():
            if claim.host == name:
                found.setdefault(claim.block.vip, []).append(claim.block)
        return found

    # ---- agent and distributor, inside ----

    def _evaluate(self, machine: Machine, socket: Socket) -> None:
        """One event: only the listeners of its port, as the agent does."""
        port = (socket.protocol, socket.port)
        beside = [s for s in machine.seen.values() if (s.protocol, s.port) == port]
        own = self.own_blocks(machine.name)
        want = listeners(machine.name, self.definitions.values(), beside, own, str)
        have = {k: v for k, v in machine.notified.items() if (k.protocol, k.port) == port}
        self._notify(machine, notifications(have, want))

    def _evaluate_all(self, machine: Machine) -> None:
        want = listeners(
            machine.name,
            self.definitions.values(),
            machine.seen.values(),
            self.own_blocks(machine.name),
            str,
        )
        self._notify(machine, notifications(machine.notified, want))

    def _notify(self, machine: Machine, sent: list[Notification]) -> None:
        for notification in sent:
            key = notification.key
            by_host = self.listeners[key.vip].setdefault((key.protocol, key.port), {})
            if notification.listener is None:
                machine.notified.pop(key)
                by_host.pop(machine.name)
            else:
                machine.notified[key] = by_host[machine.name] = notification.listener
            if not by_host:
                del self.listeners[key.vip][key.protocol, key.port]
            self._program(key.vip, (key.protocol, key.port))

    def _program(self, vip: Address, key: PortKey) -> None:
        definition = self.definitions[vip]
        owner = BlockIndex(self.claims.values(), vip).owner(key[1])
        there = self.listeners[vip].get(key, {})
        found = route(key, there, definition, self.hosts, owner)
        self._plan(vip, {key: found})

    def _program_all(self, vip: Address) -> None:
        table = routes(self._cluster(), self.definitions[vip])
        self._plan(vip, replacing(self._tables, self._vip_index(vip), table))

    def _changed_hosts(self) -> None:
        for vip in self.definitions:
            self._program_all(vip)

    def _plan(self, vip: Address, changed: dict[PortKey, Route | None]) -> None:
        rows = {
            h.name: HostRow(Hop(h.address, Path.L2, 2), NO_HOP, h.weight)
            for h in self.hosts.values()
        }
        method = self.definitions[vip].method
        for command in plan(self._tables, self._vip_index(vip), method, changed, rows):
            for _ in self.maps.steps(command):
                pass

    def _cluster(self) -> Cluster:
        return Cluster(
            self.revision, self.definitions, self.hosts, self.listeners, self.claims, {}, {}
        )

    def _distributing(self, vip: Address) -> Distributing | None:
        if vip not in self.published:
            return None
        return Distributing("distributor", 1, self.definitions[vip], self.published[vip])

    def _vip_index(self, vip: Address) -> int:
        return list(self.definitions).index(vip)

    def _bound_ports(self) -> set[int]:
        return {s.port for m in self.machines.values() for s in m.sockets.values()}

    def _alive(self) -> Iterator[Machine]:
        return (m for m in self.machines.values() if m.name in self.hosts)
