# SPDX-License-Identifier: Apache-2.0
"""Packets outlive daemons, however many are killed at once: what goes on, and what is adopted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from anyport.errors import DaemonUnavailable
from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster
from tests.support.lab_etcd import LabEtcd
from tests.support.pinned import Pinned, pinned

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
SECOND = "10.77.0.81"
DOWNLOADS = 50
LISTENERS = range(20000, 23000)  # dozens of transactions


@pytest.fixture(scope="module")
def lasting() -> Iterator[LabCluster]:
    """Leases outlast every restart."""
    with lab_cluster("outlive", 3, {"vip": VIP}, {"registry": {"ttl": 120}}) as cluster:
        cluster.await_ready()
        yield cluster


@pytest.fixture
def cluster(lasting: LabCluster) -> Iterator[LabCluster]:
    yield lasting
    lasting.reset()


def those(cluster: LabCluster, who: str) -> list[str]:
    distributor = cluster.distributor()
    targets = [host for host in HOSTS if host != distributor]
    return {"target": targets[:1], "distributor": [distributor], "all": [*HOSTS]}[who]


def in_kernel(cluster: LabCluster, host: str) -> Pinned:
    return pinned(cluster.lab.node(host).pins)


def lease(cluster: LabCluster, host: str) -> int:
    saved = cluster.lab.node(host).directory / "state" / "membership.json"
    return int(json.loads(saved.read_text())["lease"])


@pytest.mark.parametrize("who", ["target", "distributor", "all"])
def test_packets_outlive_daemons(cluster: LabCluster, who: str) -> None:
    """50 downloads, datagrams and new connections all the time; what opens and closes meanwhile
    is caught up with; the daemon goes on with the same lease, maps and attachments."""
    killed = those(cluster, who)
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
        cluster[host].bind_udp(VIP, 53)
    closing = {host: cluster[host].listen(VIP, 81) for host in killed}
    cluster.await_targets(80, set(HOSTS))
    cluster.await_targets(81, set(killed))
    cluster.await_targets(53, set(HOSTS), "udp")
    before = {host: (lease(cluster, host), in_kernel(cluster, host)) for host in killed}
    office = cluster.lab.client("host1").vip(VIP)
    with (
        cluster.watched("/anyport/v1/hosts/") as watch,
        cluster.downloads(80, DOWNLOADS) as rounds,
        cluster.datagrams(53, 20) as datagrams,
        cluster.traffic(80) as greetings,
    ):
        for host in killed:
            cluster.lab.kill_daemon(host)
        assert set(cluster.client.fetch(VIP, 80, 40)) == set(HOSTS)
        unique = {host: cluster[host].listen(VIP) for host in killed}  # out of the kernel's pool
        for host, opened in unique.items():
            assert cluster.client.fetch(VIP, opened.port, 1) == [host]
        for opened in closing.values():
            opened.close()
        with pytest.raises(ConnectionRefusedError):  # at the target, or nowhere
            cluster.client.connect(VIP, 81)
        for host in killed:
            cluster[host].listen(VIP, 82)
        for host in killed:
            cluster.lab.start_daemon(host)
        cluster.await_targets(81, set())
        cluster.await_targets(82, set(killed))
        for host, opened in unique.items():
            cluster.await_targets(opened.port, {host})
        assert set(cluster.client.fetch(VIP, 80, 40)) == set(HOSTS)
        cluster[HOSTS[0]].listen(VIP, 83)
        changes = watch.until("host1/listeners/10.77.0.80/tcp/83")
    assert (len(rounds), min(rounds) > 0) == (DOWNLOADS, True)
    assert datagrams["lost"] == 0
    assert set(greetings) == set(HOSTS)
    gone = {change for change in changes if change.startswith("delete")}
    assert gone == {f"delete /anyport/v1/hosts/{host}/listeners/{VIP}/tcp/81" for host in killed}
    assert cluster.lab.client("host1").vip(VIP) == office
    for host, (held, had) in before.items():
        has = in_kernel(cluster, host)
        assert lease(cluster, host) == held
        assert (has.maps, has.links, has.tags) == (had.maps, had.links, had.tags)


def test_a_given_port_outlives_its_host_s_lease_and_the_distributor_s_daemon(
    cluster: LabCluster,
) -> None:
    """Who begins anew, in the same term, finds no member that has the block. Nobody else can have
    its ports, and its host's kernel serves them."""
    here = cluster.distributor()
    owner = min({*HOSTS} - {here})
    given, datagrams = cluster[owner].listen(VIP), cluster[owner].bind_udp(VIP)
    cluster.await_targets(given.port, {owner})
    cluster.await_targets(datagrams.port, {owner}, "udp")
    office = cluster.lab.client(here).vip(VIP)
    with cluster.traffic(given.port) as served:
        cluster.lab.kill_daemon(owner)
        cluster.revoke(cluster.lease(owner))
        eventually(lambda: not is_member(cluster, here, owner), "it to be missed")
        cluster.lab.kill_daemon(here)
        cluster.lab.start_daemon(here)
        eventually(lambda: cluster.noun("status", here)["ready"], f"{here} to distribute")
        assert cluster.lab.client(here).vip(VIP) == office
        assert cluster.client.fetch(VIP, given.port, 1) == [owner]
        assert cluster.client.ask_udp(VIP, datagrams.port) == [owner]
        cluster.lab.start_daemon(owner)
    assert set(served) == {owner}


def is_member(cluster: LabCluster, witness: str, host: str) -> bool:
    return host in {row["host"] for row in cluster.noun("hosts", witness)}


def test_a_host_is_ready_when_all_that_it_has_is_told(cluster: LabCluster) -> None:
    """Who restarts one daemon after another waits for that: the next host may have the only other
    listener of a port. An etcd that stops in the midst of it shows it."""
    etcd, host = LabEtcd(cluster), min({*HOSTS} - {cluster.distributor()})
    prefix = f"/anyport/v1/hosts/{host}/listeners/"
    for port in LISTENERS:
        cluster[host].listen(VIP, port)
    told = {f"{prefix}{VIP}/tcp/{port}" for port in LISTENERS}
    eventually(lambda: told <= {*etcd.stored()}, "all to be told")
    cluster.lab.kill_daemon(host)
    cluster.revoke(cluster.lease(host))
    with cluster.watched(prefix) as watch:
        cluster.lab.launch_daemon(host)
        watch.next()
        with etcd.frozen():
            eventually(lambda: free_ports(cluster, host), "it to serve all else")
            assert not cluster.noun("status", host)["ready"]
    eventually(lambda: cluster.noun("status", host)["ready"], "it to be ready")
    assert told <= {*etcd.stored()}


def free_ports(cluster: LabCluster, host: str) -> int:
    """Of `bind(VIP, 0)`; 0 while no daemon answers."""
    try:
        [vip] = cluster.noun("status", host)["vips"]
    except DaemonUnavailable:
        return 0
    return int(vip["free_ports"])


def test_what_the_operator_did_meanwhile(cluster: LabCluster) -> None:
    """With every daemon dead: a VIP that was deleted goes, and takes nothing else along."""
    cluster.lab.client("host1").add_vip(SECOND)
    cluster.await_ready()
    cluster["host2"].listen(SECOND, 80)
    cluster["host2"].listen(VIP, 80)
    cluster.await_targets(80, {"host2"}, vip=SECOND)
    cluster.await_targets(80, {"host2"})
    with cluster.downloads(80, 5) as rounds:
        for host in HOSTS:
            cluster.lab.kill_daemon(host)
        cluster.write("delete", f"/anyport/v1/vips/{SECOND}")
        assert cluster.client.fetch(SECOND, 80, 1) == ["host2"]
        for host in HOSTS:
            cluster.lab.start_daemon(host)
        for host in HOSTS:
            eventually(lambda host=host: not cluster.has_on_lo(host, SECOND), host)  # type: ignore[misc]
            assert cluster.has_on_lo(host, VIP)
        cluster.await_ready()
        assert cluster.client.fetch(VIP, 80, 5) == ["host2"] * 5
    assert min(rounds) > 0
