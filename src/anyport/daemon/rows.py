# SPDX-License-Identifier: Apache-2.0
"""What the CLI shows, as plain rows: one function a noun, with the noun's documented keys."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from anyport.agent.agent import Agent
from anyport.agent.definitions import present_distributor
from anyport.decide import blocks as block_rules
from anyport.decide import routes as route_rules
from anyport.decide.rows import Path
from anyport.distributor.distributor import Distributor
from anyport.errors import UsageError
from anyport.kernel import sock_diag
from anyport.model import Cluster, Definition, Distributed, Route
from anyport.model.definition import Address

Row = dict[str, Any]


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
                "paths": self._paths(host.name),
                "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(host.since)),
            }
            for _, host in sorted(self._cluster.hosts.items())
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

    def listeners(self, only: Address | None) -> list[Row]:
        return [
            {
                "vip": str(listener.vip),
                "protocol": listener.protocol.word,
                "port": listener.port,
                "host": listener.host,
                "specific": listener.specific,
                "user": listener.user,
                "process": listener.process,
            }
            for vip in _sorted(self._cluster.listeners)
            if only in (None, vip)
            for _, by_host in sorted(self._cluster.listeners[vip].items())
            for _, listener in sorted(by_host.items())
        ]

    def ports(self, only: Address | None) -> list[Row]:
        counted = self._connection_counts()
        return [
            row
            for vip, definition in self._effective()
            if only in (None, vip)
            for row in self._ports_of(vip, definition, counted)
        ]

    def _ports_of(
        self, vip: Address, definition: Definition, counted: Counter[tuple[Any, ...]]
    ) -> list[Row]:
        known_here = vip in self._distributor.offices
        distributing = present_distributor(self._cluster, vip)
        refused = distributing.refused if distributing else ()
        blocks = route_rules.block_index(self._cluster, vip, refused)
        hosts = self._cluster.hosts
        rows = []
        for key, by_host in sorted(self._cluster.listeners.get(vip, {}).items()):
            protocol, port = key
            route = route_rules.route(key, by_host, definition, hosts, blocks.owner(port))
            if route is None:
                continue  # notified under a definition that holds no more
            rows.append(
                {
                    "vip": str(vip),
                    "protocol": protocol.word,
                    "port": port,
                    "route": "distributed" if isinstance(route, Distributed) else "unique",
                    "targets": [
                        {
                            "host": name,
                            "weight": weight,
                            "connections": (
                                counted[vip, protocol, port, name] if known_here else None
                            ),
                        }
                        for name, weight in self._targets(route)
                    ],
                }
            )
        return rows

    def _targets(self, route: Route) -> list[tuple[str, int]]:
        if isinstance(route, Distributed):
            return [(target.host, target.weight) for target in route.targets]
        host = self._cluster.hosts.get(route.host)
        return [(route.host, host.weight if host else 0)]

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

    def _connection_counts(self) -> Counter[tuple[Any, ...]]:
        names = self._names()
        return Counter(
            (c.vip, c.protocol, c.port, names.get(c.slot))
            for c in self._distributor.live_connections()
        )

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

    def _effective(self) -> list[tuple[Address, Definition]]:
        """What the distributors published; the operator's wish where none has yet."""
        return [
            (vip, d.definition if (d := present_distributor(self._cluster, vip)) else wish)
            for vip in _sorted(self._cluster.definitions)
            for wish in [self._cluster.definitions[vip]]
        ]


def _sorted(vips: Iterable[Address]) -> list[Address]:
    return sorted(vips, key=lambda vip: (vip.version, vip.packed))
