# SPDX-License-Identifier: Apache-2.0
"""For which VIPs this host is a candidate, and who is elected."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from anyport.config import Config
from anyport.decide.definitions import acceptable
from anyport.decide.election import elect, is_active, successor, why_no_candidate
from anyport.kernel.routes import Routes
from anyport.model import Candidacy, Definition
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.keys import CandidacyKey
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher


class Candidacies:
    def __init__(
        self,
        config: Config,
        routes: Routes,
        mirror: Mirror,
        publisher: Publisher,
        offices: Callable[[], Collection[Address]],
    ) -> None:
        """`offices`: the VIPs that this host distributes."""
        self._host = config.host.name
        self._here = config.host.described()
        self._wish = config.distributor
        self._routes = routes
        self._mirror = mirror
        self._publisher = publisher
        self._offices = offices
        self._staying: frozenset[Address] | None = None
        """On leaving: the VIPs that nobody else could have."""

    def stand(self) -> None:
        """Candidate for every VIP whose definition allows this host."""
        for vip, definition in self._definitions().items():
            key = str(CandidacyKey(self._host, vip))
            if self.why_none(definition) is None:
                value = values.encode(Candidacy(vip, self._host, self._wish.rank, 0))
                if self._publisher.wanted(key) != value:
                    self._publisher.set(key, value)
            else:
                self.withdraw(vip)

    def withdraw(self, vip: Address) -> None:
        self._publisher.delete(str(CandidacyKey(self._host, vip)))

    def leave(self) -> frozenset[Address]:
        """For nothing any more but what nobody else could distribute; what is handed on."""
        distributed = frozenset(self._offices())
        self._staying = frozenset(vip for vip in distributed if self._successor(vip) is None)
        self.stand()
        return distributed - self._staying

    def why_none(self, definition: Definition) -> str | None:
        """None: this host is a candidate."""
        if self._staying is not None and definition.vip not in self._staying:
            return "its daemon stops"
        seen = self._mirror.cluster.hosts.get(self._host)  # which the operator may have drained
        here = self._here if seen is None else replace(self._here, state=seen.state)
        return why_no_candidate(definition, here, self._wish.candidate, self._routes.on_link)

    def elected(self, vip: Address) -> str | None:
        cluster = self._mirror.cluster
        definition = self._definitions().get(vip)
        if definition is None:
            return None
        published = cluster.distributing.values()
        return elect(definition, cluster.candidacies.values(), cluster.hosts, published)

    def active(self) -> set[str]:
        return {name for name, host in self._mirror.cluster.hosts.items() if is_active(host)}

    def _successor(self, vip: Address) -> str | None:
        definition, cluster = self._definitions().get(vip), self._mirror.cluster
        if definition is None:
            return None
        return successor(definition, self._host, cluster.candidacies.values(), cluster.hosts)

    def _definitions(self) -> dict[Address, Definition]:
        """The operator's wishes that may be in force; the agents report the others."""
        cluster = self._mirror.cluster
        return acceptable(cluster.definitions.values(), cluster.hosts, self._offices())[0]
