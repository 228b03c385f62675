# SPDX-License-Identifier: Apache-2.0
"""`anyport counters` and `anyport status` of a cluster at work."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.lab_cluster import VIP, LabCluster, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
CLOSED = 444


@pytest.fixture(scope="module")
def cluster() -> Iterator[LabCluster]:
    with lab_cluster("counters", 3, {"vip": VIP}) as cluster:
        yield cluster


def rows(cluster: LabCluster, host: str, *words: str) -> list[dict[str, Any]]:
    done = cluster.anyport(host, "counters", "--json", *words)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def opened(cluster: LabCluster, host: str) -> Counter[tuple[str, str]]:
    """Connections that were selected, by path and target."""
    return Counter(
        {
            (row["path"], row["target"]): row["packets"]
            for row in rows(cluster, host, VIP)
            if row["reason"] == "selected"
        }
    )


def test_connections_are_counted_for_their_targets(cluster: LabCluster) -> None:
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    distributor = cluster.distributor()
    before = opened(cluster, distributor)
    served = Counter(cluster.client.fetch(VIP, 80, 30))
    assert opened(cluster, distributor) - before == {
        ("local" if host == distributor else "l2", host): count for host, count in served.items()
    }
    cluster.lab.kill_daemon(distributor)
    cluster.lab.start_daemon(distributor)
    assert opened(cluster, distributor) - before == {
        ("local" if host == distributor else "l2", host): count for host, count in served.items()
    }
    cluster.await_ready()
    shown = cluster.noun("status", distributor)["packets"]
    every = rows(cluster, distributor, "--all")
    assert shown["to_targets"] >= sum(served.values())
    assert shown["dropped"] == sum(
        row["packets"] for row in every if row["reason"].startswith("drop_")
    )


def test_what_a_host_refused_is_counted_there(cluster: LabCluster) -> None:
    distributor = cluster.distributor()
    cluster.extra(distributor).listen("0.0.0.0", CLOSED)
    before = refused(cluster, distributor)
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, CLOSED)
    assert refused(cluster, distributor) == (before[0] + 1, before[1] + 1)
    for host in set(HOSTS) - {distributor}:
        assert refused(cluster, host) == (0, 0)


def refused(cluster: LabCluster, host: str) -> tuple[int, int]:
    """Packets that found no route, and those of them that the local stack was kept from."""
    every = rows(cluster, host, "--all")
    no_route = sum(row["packets"] for row in every if row["reason"] == "no_route")
    return no_route, sum(row["events"] for row in every if row["reason"] == "leaks_refused")


def test_prometheus_has_them_too(cluster: LabCluster) -> None:
    cluster["host1"].listen(VIP, 81)
    cluster.await_targets(81, {"host1"})
    cluster.client.fetch(VIP, 81, 3)
    host = cluster.distributor()
    told = {f'target="{row["target"]}"' for row in rows(cluster, host, VIP) if row["target"]}
    shown = [name for name in cluster.figures(host) if name.startswith("anyport_bytes_total{")]
    assert 'target="host1"' in told
    for target in told:
        assert any(target in name and f'vip="{VIP}"' in name for name in shown)
