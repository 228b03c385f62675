# SPDX-License-Identifier: Apache-2.0
"""Where the IPIP path ends: what this host takes out of outer packets, and from whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from anyport.decide.paths import overhead
from anyport.kernel.routes import Routes
from anyport.kernel.target import TargetKernel
from anyport.model import Cluster, Host
from anyport.model.definition import Address
from anyport.registry.mirror import Mirror
from anyport.registry.touched import Touched


class TunnelEnd:
    """Keeps the target's kernel half as the cluster and this host's routes are.

    Distributors are all other hosts: any may be elected, and is trusted from
    when it joins, so that a takeover waits for nobody.
    """

    def __init__(self, here: Host, kernel: TargetKernel, mirror: Mirror, routes: Routes) -> None:
        self._here = here
        self._kernel = kernel
        self._mirror = mirror
        self._routes = routes
        self._subscription = mirror.subscribe()
        self._others: Mapping[str, Host] = {}
        self._hosted: frozenset[Address] | None = None
        self.overhead = 0
        """Bytes of the outer header that may be around packets to this host; 0: none is."""
        routes.on_change(lambda: self._subscription.add(Touched(hosts={here.name})))

    def host(self, vips: Collection[Address]) -> None:
        """These are on `lo`, and no others."""
        hosted = frozenset(vips)
        if hosted != self._hosted:
            self._hosted = hosted
            self._kernel.set_vips(hosted)

    def attached(self) -> bool:
        """Whether the programs are still at the interface. Raises KernelError."""
        return self._kernel.attached()

    async def run(self) -> None:
        """Until cancelled. Raises KernelError."""
        self._kernel.set_addresses(self._here.addresses)
        while True:
            touched = await self._subscription.changed()
            if touched.hosts or touched.candidacies or touched.distributing:
                await self._changed()

    async def _changed(self) -> None:
        await self._routes.know_hosts(self, self._mirror.cluster.hosts)
        cluster = self._mirror.cluster
        self._others = distributors(cluster, self._here.name, self._others)
        self._kernel.set_distributors({a for h in self._others.values() for a in h.addresses})
        self.overhead = self._overhead(cluster)
        self._kernel.set_overhead(self.overhead)

    def _overhead(self, cluster: Cluster) -> int:
        """Of whoever distributes or may come to: a connection's MSS is told only once."""
        names = {host for _, host in (*cluster.candidacies, *cluster.distributing)}
        senders = [self._others[name] for name in names & self._others.keys()]
        return overhead(self._here, senders, self._routes.to, self._routes.interface_index)


def distributors(cluster: Cluster, here: str, before: Mapping[str, Host]) -> dict[str, Host]:
    """The hosts, by name, that may send to `here`.

    Of those that departed (`before`) too, as long as a VIP has no distributor:
    the last one's packets go on while its daemon is away.
    """
    present = {name: host for name, host in cluster.hosts.items() if name != here}
    served = {vip for vip, _ in cluster.distributing}
    return present if cluster.definitions.keys() <= served else {**before, **present}
