# SPDX-License-Identifier: Apache-2.0
"""Figures for Prometheus, read from the loops and the kernel when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anyport.agent.agent import Agent
from anyport.daemon.counters import CounterRows, Row
from anyport.distributor.distributor import Distributor
from anyport.kernel.listen import ListenKernel
from anyport.registry.mirror import Mirror


def collector(
    mirror: Mirror,
    agent: Agent,
    distributor: Distributor,
    listen: ListenKernel,
    counters: CounterRows,
) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Figures(mirror, agent, distributor, listen, counters))
    return registry


class _Figures(Collector):
    def __init__(
        self,
        mirror: Mirror,
        agent: Agent,
        distributor: Distributor,
        listen: ListenKernel,
        counters: CounterRows,
    ) -> None:
        self._mirror = mirror
        self._agent = agent
        self._distributor = distributor
        self._listen = listen
        self._counters = counters

    def describe(self) -> list[Metric]:
        return []  # asked at registration, before there is anything to read

    def collect(self) -> Iterator[Metric]:
        yield from packet_families(self._counters.packets(zero=True))
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


def packet_families(rows: Sequence[Row]) -> Iterator[CounterMetricFamily]:
    """Of the rows of CounterRows.packets; what a row has not, is an empty label."""
    labels = ("vip", "route", "path", "target", "reason")
    for name, help in (
        ("packets", "Packets at the LAN interface."),
        ("bytes", "Bytes of their frames."),
    ):
        family = CounterMetricFamily(f"anyport_{name}", help, labels=labels)
        for row in rows:
            family.add_metric([row[label] or "" for label in labels], row[name])
        yield family


def _counter(name: str, help: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
