# SPDX-License-Identifier: Apache-2.0
"""Figures for Prometheus, read from the loops and the kernel when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anyport.agent.agent import Agent
from anyport.distributor.distributor import Distributor
from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.listen import ListenKernel
from anyport.registry.mirror import Mirror


def collector(
    mirror: Mirror,
    agent: Agent,
    distributor: Distributor,
    listen: ListenKernel,
    packets: DistributorKernel,
) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Figures(mirror, agent, distributor, listen, packets))
    return registry


class _Figures(Collector):
    def __init__(
        self,
        mirror: Mirror,
        agent: Agent,
        distributor: Distributor,
        listen: ListenKernel,
        packets: DistributorKernel,
    ) -> None:
        self._mirror = mirror
        self._agent = agent
        self._distributor = distributor
        self._listen = listen
        self._packets = packets

    def describe(self) -> list[Metric]:
        return []  # asked at registration, before there is anything to read

    def collect(self) -> Iterator[Metric]:
        yield _counter(
            "anyport_packets", "Packets at the LAN interface.", "verdict", self._packets.counters()
        )
        yield _counter(
            "anyport_sockets", "What the host's programs saw.", "event", self._listen.counters()
        )
        yield GaugeMetricFamily(
            "anyport_listeners", "Listeners of this host that count.", len(self._agent.listeners)
        )
        yield GaugeMetricFamily(
            "anyport_registry_connected", "1: the registry answers.", int(self._mirror.connected)
        )
        free = GaugeMetricFamily(
            "anyport_free_ports", "Block ports that can be handed out here.", labels=["vip"]
        )
        distributing = GaugeMetricFamily(
            "anyport_distributing", "1: this host distributes the VIP.", labels=["vip"]
        )
        for vip in self._agent.hosted:
            free.add_metric([str(vip)], self._agent.pools.free(vip))
            distributing.add_metric([str(vip)], int(vip in self._distributor.offices))
        yield free
        yield distributing


def _counter(name: str, help: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
