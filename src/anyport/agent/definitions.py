# SPDX-License-Identifier: Apache-2.0
"""Which definition holds on this host for each VIP: the one its distributor published (R1)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from anyport.decide.definitions import acceptable
from anyport.model import Cluster, Definition, Distributing
from anyport.model.definition import Address


def present_distributor(cluster: Cluster, vip: Address) -> Distributing | None:
    """The publication of the highest term; an older distributor's is not accepted (PM74276).

    A host that the operator's definition leaves out is heard only where no
    other publishes: it may be the former distributor, until another is elected.
    """
    published = [d for (v, _), d in cluster.distributing.items() if v == vip]
    wish = cluster.definitions.get(vip)
    return max(published, key=lambda d: (wish is None or wish.allows(d.host), d.term), default=None)


def present_distributors(cluster: Cluster, vips: Iterable[Address]) -> list[Distributing]:
    """Of those of `vips` that have one."""
    return [d for vip in vips if (d := present_distributor(cluster, vip)) is not None]


def in_force(
    cluster: Cluster, held: Mapping[Address, Definition] | None = None
) -> list[tuple[Address, Definition]]:
    """What the distributors published; the operator's wish where none has yet.

    `held`: those that hold on this host. They are in force even if their
    wishes went with a store that was emptied.
    """
    holding = {**(held or {}), **cluster.definitions}
    for published in present_distributors(cluster, tuple(holding)):
        holding[published.definition.vip] = published.definition
    return sorted(holding.items(), key=lambda item: (item[0].version, item[0].packed))


def effective(
    cluster: Cluster, host: str, versions: Collection[int], before: Mapping[Address, Definition]
) -> tuple[dict[Address, Definition], dict[Address, str]]:
    """The definitions that hold on `host` now, given those that held `before`, and by VIP why
    others that were published may not.

    `versions`: the IP versions that it has an address of. Others' VIPs would
    never reach it, so they are not put there: a program that binds to one is
    told so.

    While no distributor publishes (it died, the next is not elected yet) the
    last one stays in force; it goes when the operator has deleted it, too. One
    that has come to leave this host out stays as well, and nothing counts under
    it: with the VIP its connections would go.
    """
    holding: dict[Address, Definition] = {}
    # What the operator has not defined is no host's to publish.
    vips = {*before, *(vip for vip, _ in cluster.distributing if vip in cluster.definitions)}
    for vip in vips:
        published = present_distributor(cluster, vip)
        if published is not None:
            definition: Definition | None = published.definition
        else:
            definition = before.get(vip) if vip in cluster.definitions else None
        if definition is None or vip.version not in versions:
            continue
        if definition.allows(host) or vip in before:
            holding[vip] = definition
    return acceptable(holding.values(), cluster.hosts, before.keys() & holding.keys())
