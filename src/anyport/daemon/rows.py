# SPDX-License-Identifier: Apache-2.0
"""What the CLI shows, as plain rows: one function a noun, with the noun's documented keys."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

from anyport.agent.agent import Agent
from anyport.agent.definitions import in_force, present_distributor
from anyport.daemon import port_rows
from anyport.daemon.port_rows import Row
from anyport.decide import blocks as block_rules
from anyport.decide import routes as route_rules
from anyport.decide.rows import Path
from anyport.distributor.distributor import Distributor
from anyport.errors import UsageError
from anyport.kernel import sock_diag
from anyport.model import Cluster, Definition
from anyport.model.definition import Address


class Rows:
    """The present state, from the cluster and from this host's own loops."""

    def __init__(self, cluster: Cluster, agent: Agent, distributor: Distributor) -> None:
        self._cluster = cluster
        self._agent = agent
        self._distributor = distributor

    def vips(self) -> list[Row]:
        return [self.vip(vip) for vip in _sorted(self._cluster.definitions)]

    def require(self, vip: Address) -> None:
        """Raises UsageError that lists the VIPs, unless this is one."""
        if vip not in self._cluster.definitions:
            known = ", ".join(map(str, _sorted(self._cluster.definitions))) or "none"
            raise UsageError(f"vip {vip} does not exist; those that do: {known}")

    def vip(self, vip: Address) -> Row:
        """Raises KeyError for a VIP without a definition."""
        definition = self._cluster.definitions[vip]
        distributing = present_distributor(self._cluster, vip)
        return {
            "vip": str(vip),
            "ports": str(definition.ports),
            "method": definition.method.value,
            "hosts": "all" if definition.hosts is None else sorted(definition.hosts),
            "udp_idle": definition.udp_idle,
            "distributor": distributing.host if distributing else None,
            "term": distributing.term if distributing else None,
        }

    def hosts(self) -> list[Row]:
        return [
            {
                "host": host.name,
                "address": str(host.address),
                "address6": str(host.address6) if host.address6 else None,
                "weight": host.weight,
                "state": host.state.value,
                "draining_since": self._draining_since(host.name),
                "connections_left": self._connections_left(host.name),
                "distributes": self._distributed_by(host.name),
                "paths": self._paths(host.name),
                "since": utc(host.since),
            }
            for _, host in sorted(self._cluster.hosts.items())
        ]

    def drains(self) -> list[Row]:
        """Of the hosts that are away, too: they come back drained."""
        return [
            {
                "host": name,
                "member": name in self._cluster.hosts,
                "draining_since": self._draining_since(name),
                "connections_left": self._connections_left(name),
                "distributes": self._distributed_by(name),
            }
            for name in sorted(self._cluster.drains)
        ]

    def _draining_since(self, host: str) -> str | None:
        drain = self._cluster.drains.get(host)
        return None if drain is None else utc(drain.since)

    def _connections_left(self, host: str) -> int | None:
        """Of a drained host, once it has counted them."""
        if host not in self._cluster.drains or host not in self._cluster.remaining:
            return None
        return self._cluster.remaining[host].connections

    def _distributed_by(self, host: str) -> list[str]:
        return [
            str(vip)
            for vip in _sorted(self._cluster.definitions)
            if (d := present_distributor(self._cluster, vip)) and d.host == host
        ]

    def _paths(self, host: str) -> list[Row]:
        """From this host to it, whether this one distributes or not."""
        return [
            {
                "family": f"ipv{version}",
                "path": Path(choice.hop.path).name.lower(),
                "address": str(choice.hop.address) if choice.hop.address else None,
                "mtu": choice.hop.mtu or None,
                "why": choice.why,
            }
            for version, choice in self._distributor.choices.get(host, {}).items()
        ]

    def listeners(self, only: Address | None) -> Iterable[Row]:
        """Of the present moment; the rows are made as they are asked for, by any thread."""
        snapshot = [
            listener
            for vip, by_port in self._cluster.listeners.items()
            if only in (None, vip)
            for by_host in by_port.values()
            for listener in by_host.values()
        ]
        return port_rows.listeners(snapshot)

    def ports(self, only: Address | None) -> Iterable[Row]:
        """Of the present moment; the rows are made as they are asked for, by any thread."""
        counted = self._connection_counts()
        snapshots = [
            self._port_table(vip, definition, counted)
            for vip, definition in in_force(self._cluster, self._agent.hosted)
            if only in (None, vip)
        ]
        return chain.from_iterable(table.rows() for table in snapshots)

    def _port_table(
        self, vip: Address, definition: Definition, counted: port_rows.Counts
    ) -> port_rows.PortTable:
        distributing = present_distributor(self._cluster, vip)
        claims = self._cluster.claims.values()
        refused = block_rules.refused_by(distributing, claims) if distributing else ()
        listeners = self._cluster.listeners.get(vip, {})
        return port_rows.PortTable(
            definition,
            {port: dict(by_host) for port, by_host in listeners.items()},
            dict(self._cluster.hosts),
            route_rules.block_index(self._cluster, vip, refused),
            counted if vip in self._distributor.offices else None,
        )

    def connections(self, only: Address | None) -> list[Row]:
        """All that this host distributes; for other VIPs, those that end here."""
        rows = [row for row in self._distributed() if only is None or row["vip"] == str(only)]
        elsewhere = [
            vip
            for vip in self._agent.hosted
            if vip not in self._distributor.offices and only in (None, vip)
        ]
        for connection in sock_diag.connections(elsewhere):
            rows.append(
                {
                    "protocol": "tcp",
                    "client": str(connection.client),
                    "client_port": connection.client_port,
                    "vip": str(connection.vip),
                    "port": connection.port,
                    "host": self._agent.host,
                }
            )
        return rows

    def _distributed(self) -> Iterable[Row]:
        names = self._names()
        for c in self._distributor.live_connections():
            yield {
                "protocol": c.protocol.word,
                "client": str(c.client),
                "client_port": c.client_port,
                "vip": str(c.vip),
                "port": c.port,
                "host": names.get(c.slot),
            }

    def _connection_counts(self) -> port_rows.Counts:
        names = self._names()
        return Counter(
            (c.vip, c.protocol, c.port, names.get(c.slot))
            for c in self._distributor.live_connections()
        )

    def impact(self, vip: Address) -> Row:
        """What ends with the VIP, by host; nothing if there is no such VIP.

        Its distributor knows all connections; any other host its own, and
        None for those that may have some.
        """
        listeners = Counter(
            host for by_host in self._cluster.listeners.get(vip, {}).values() for host in by_host
        )
        distributing = present_distributor(self._cluster, vip)
        connections: dict[str, int | None] = {}
        if vip in self._cluster.definitions and vip not in self._distributor.offices:
            connections = dict.fromkeys(self._cluster.hosts)
            connections[self._agent.host] = 0
        for row in self.connections(vip):
            host = str(row["host"])
            connections[host] = (connections.get(host) or 0) + 1
        return {
            "vip": str(vip),
            "distributor": distributing.host if distributing else None,
            "listeners": dict(sorted(listeners.items())),
            "connections": {h: n for h, n in sorted(connections.items()) if n != 0},
        }

    def _names(self) -> dict[int | None, str]:
        """Host slot -> name, of the hosts that are there now."""
        return {self._distributor.slot(name): name for name in self._cluster.hosts}

    def host_of(self, slot: int) -> str | None:
        """None: no host has it now."""
        return self._names().get(slot)

    def blocks(self) -> list[Row]:
        owners = block_rules.owners(self._cluster.claims.values())
        return [
            {
                "vip": str(claim.block.vip),
                "first": claim.block.first,
                "last": claim.block.last,
                "host": claim.host,
                "used": self._used(claim.host, claim.block),
            }
            for claim in sorted(owners, key=lambda c: (c.block.vip.packed, c.block.first))
        ]

    def _used(self, host: str, block: Any) -> int:
        """Here: ports with a socket. Elsewhere: ports with a listener, which is what is known."""
        if host == self._agent.host:
            return self._agent.pools.used(block)
        listening = self._cluster.listeners.get(block.vip, {})
        return len({p for (_, p), by_host in listening.items() if p in block and host in by_host})


def _sorted(vips: Iterable[Address]) -> list[Address]:
    return sorted(vips, key=lambda vip: (vip.version, vip.packed))


def utc(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 has them."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
