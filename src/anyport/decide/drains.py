# SPDX-License-Identifier: Apache-2.0
"""What becomes of the cluster when a host is drained (docs/adr/0015)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anyport.decide.election import elect, successor
from anyport.decide.routes import block_index, route
from anyport.model import Cluster, Definition, Distributed, Distributing, Drain, PortKey
from anyport.model.definition import Address


def known_hosts(cluster: Cluster) -> set[str]:
    """Hosts that an operator may mean, those that are away for now among them."""
    named = {name for d in cluster.definitions.values() for name in d.hosts or ()}
    claiming = {claim.host for claim in cluster.claims.values()}
    return named | claiming | cluster.hosts.keys() | cluster.drains.keys()


def orphaned(host: str, cluster: Cluster) -> list[Address]:
    """The VIPs that `host` could distribute and, without it, nobody."""
    candidacies, hosts = cluster.candidacies.values(), cluster.hosts
    return [
        vip
        for vip, definition in cluster.definitions.items()
        if elect(definition, candidacies, hosts, ()) is not None
        and successor(definition, host, candidacies, hosts) is None
    ]


def only_target(
    host: str, cluster: Cluster, effective: Iterable[Definition]
) -> Iterator[tuple[Address, PortKey]]:
    """The distributed ports that nobody else listens on: new connections are refused without it.

    `effective`: the definitions in force. Unique ports stay its own, drained or not.
    """
    for definition in effective:
        blocks = block_index(cluster, definition.vip)
        for key, listeners in sorted(cluster.listeners.get(definition.vip, {}).items()):
            if host not in listeners:
                continue
            found = route(key, listeners, definition, cluster.hosts, blocks.owner(key[1]))
            if isinstance(found, Distributed) and {t.host for t in found.targets} == {host}:
                yield definition.vip, key


def is_routed(drain: Drain, published: Iterable[Distributing]) -> bool:
    """Whether the drained host is given no new connections any more.

    `published`: by the present distributors. A VIP that nobody distributes its
    last one has programmed as far as it will be.
    """
    return all(d.programmed_revision >= drain.create_revision for d in published)
