# SPDX-License-Identifier: Apache-2.0
"""From listen() to the first connection through the VIP: a group of bench.control."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from anyport.lab.node import CLIENT, LAN
from bench.cluster import FIRST_PORT, Cluster, Player
from bench.rounds import Case, alternate
from bench.series import Row, Series

LISTENERS = 1000
HOSTS = 3
SYNCS = 300
_PERCENT = 100


def measure(
    part: str, rounds: int, seconds: int, listeners: int = LISTENERS, lab: str = "benchopening"
) -> list[Series]:
    """So many listeners each round, however long they take."""
    with Cluster(lab, hosts=HOSTS) as cluster:
        store = cluster.lab.node(LAN).directory / "etcd"
        cases = [
            Case("anyport", partial(openings, cluster, listeners)),
            Case("the disk", partial(syncs, store)),
        ]
        return alternate(part, cases, rounds)


def openings(cluster: Cluster, listeners: int) -> Mapping[Row, float]:
    """One after another, on the hosts in turn."""
    client = cluster.player(CLIENT, "connect")
    servers = {host: cluster.player(host, "serve") for host in cluster.lab.hosts}
    ports = range(FIRST_PORT, FIRST_PORT + listeners)
    hosts = [cluster.lab.hosts[number % HOSTS] for number in range(listeners)]
    try:
        took = [_one(servers[host], client, port) for host, port in zip(hosts, ports, strict=True)]
    finally:
        for player in (client, *servers.values()):
            player.end()
    cluster.await_routes(ports, there=False)
    away = [t for host, t in zip(hosts, took, strict=True) if host != cluster.distributor]
    return _summary("listen() to connected", took) | _quantiles(
        "listen() to connected, not on the distributor", away, "", ""
    )


def _one(server: Player, client: Player, port: int) -> float:
    """Seconds; the client tries from before on."""
    client.tell(port)
    server.tell(port)
    connected, began = client.said(), server.said()
    if connected is None:
        raise RuntimeError(f"port {port}: no connection")
    return float(connected - began)


def syncs(directory: Path) -> Mapping[Row, float]:
    """What etcd waits for at each write."""
    return _quantiles("fdatasync in etcd's directory", list(_synced(directory)), "", "")


def _synced(directory: Path) -> Iterable[float]:
    """Seconds for each of SYNCS."""
    probe = directory / "probe"
    descriptor = os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for _ in range(SYNCS):
            os.write(descriptor, bytes(200))
            began = time.perf_counter()
            os.fdatasync(descriptor)
            yield time.perf_counter() - began
    finally:
        os.close(descriptor)
        probe.unlink()


def _summary(name: str, seconds: Sequence[float]) -> dict[Row, float]:
    found = _quantiles(name, seconds, "≤ 3", "≤ 10")
    return found | {Row(f"{name}, longest", "ms"): max(seconds) * 1000}


def _quantiles(name: str, seconds: Sequence[float], *aims: str) -> dict[Row, float]:
    """Milliseconds; aims of the median and of the 99th percentile."""
    cuts = statistics.quantiles(seconds, n=_PERCENT)
    rows = (Row(f"{name}, median", "ms", aims[0]), Row(f"{name}, p99", "ms", aims[1]))
    return {rows[0]: cuts[49] * 1000, rows[1]: cuts[98] * 1000}
