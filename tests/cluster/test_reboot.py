# SPDX-License-Identifier: Apache-2.0
"""A host that goes down without a word and comes up again: of what it had, its disk is left."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster, neighbour
from tests.support.lab_etcd import LabEtcd
from tests.support.lab_users import HOSTS, healthy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def cluster() -> Iterator[LabCluster]:
    with lab_cluster("reboot") as cluster:
        yield cluster


def power_off(cluster: LabCluster, host: str) -> None:
    """Nothing it says on its way down is heard; no program, map, address or sysctl is left."""
    cluster.run("lan", "ip", "link", "set", host, "down")
    cluster.lab.kill_daemon(host)
    cluster.run(host, "ss", "--kill", "--tcp", "src", VIP)  # their FINs would be sent later
    cluster.forget(host)
    done = cluster.anyport(host, "detach")
    assert done.returncode == 0, done.stderr


def power_on(cluster: LabCluster, host: str) -> None:
    cluster.run("lan", "ip", "link", "set", host, "up")
    cluster.lab.start_daemon(host)


@pytest.mark.parametrize("soon", [True, False], ids=["within its lease", "after its lease"])
@pytest.mark.parametrize("who", ["a target", "the distributor"])
def test_a_host_reboots(cluster: LabCluster, who: str, soon: bool) -> None:
    """Connections to others go on, its own are reset, and it serves again what it listens on."""
    old = cluster.distributor()
    gone = old if who == "the distributor" else min({*HOSTS} - {old})
    others = {*HOSTS} - {gone}
    witness = min(others)
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    own = {host: cluster[host].listen(VIP).port for host in HOSTS}
    connections = [cluster.client.connect(VIP, 80) for _ in range(20)]
    lease = cluster.lease(gone)
    power_off(cluster, gone)
    if not soon:
        LabEtcd(cluster).await_end(gone)
    power_on(cluster, gone)
    assert (cluster.lease(gone) == lease) is soon
    eventually(lambda: healthy(cluster), "all to be well")
    cluster.await_ready()
    assert cluster.targets(80) == others
    new = cluster.lab.client(witness).vip(VIP)["distributor"]
    eventually(lambda: neighbour(cluster) == cluster.mac(new).hex(":"), "the client to hear")
    for connection in connections:
        if connection.greeting in others:
            assert connection.say("on").endswith("on")
        else:
            with pytest.raises(ConnectionResetError):
                connection.say("on")
    for host in others:
        assert cluster.client.fetch(VIP, own[host], 1) == [host]
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, own[gone])
    cluster[gone].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    assert set(cluster.client.fetch(VIP, 80, 60)) == set(HOSTS)
    given = cluster[gone].listen(VIP)
    assert given.port not in {own[host] for host in others}
    assert cluster.client.fetch(VIP, given.port, 1) == [gone]
