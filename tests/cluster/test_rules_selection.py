# SPDX-License-Identifier: Apache-2.0
"""R6: weights and round-robin; and programs that listen in other ways: UDP, MPTCP, IPv6 sockets."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
TURNS = "10.77.0.81"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    """host3 has three times the weight of each other."""
    with lab_cluster("select") as cluster:
        cluster.settings("host3", {"host": {"weight": 300}})
        cluster.lab.kill_daemon("host3")
        cluster.lab.start_daemon("host3")
        cluster.lab.client("host1").add_vip(TURNS, method="round-robin")
        cluster.await_ready()
        yield cluster


@pytest.fixture
def cluster(lab: LabCluster) -> Iterator[LabCluster]:
    yield lab
    lab.reset()


def test_hash_shares_by_weight(cluster: LabCluster) -> None:
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    shares = Counter(cluster.client.fetch(VIP, 80, 500))
    # 100, 100 and 300 are due; 60 is more than five standard deviations off each.
    due = {"host1": 100, "host2": 100, "host3": 300}
    assert all(abs(shares[host] - due[host]) < 60 for host in HOSTS), shares
    [row] = cluster.noun("ports", vip=VIP)
    assert [(t["host"], t["weight"]) for t in row["targets"]] == [
        ("host1", 100),
        ("host2", 100),
        ("host3", 300),
    ]


def test_round_robin_takes_strict_turns(cluster: LabCluster) -> None:
    for host in HOSTS[:2]:
        cluster[host].listen(TURNS, 81)
    cluster.await_targets(81, set(HOSTS[:2]), vip=TURNS)
    greetings = cluster.client.fetch(TURNS, 81, 12)
    assert set(greetings[:2]) == set(HOSTS[:2])
    assert greetings == greetings[:2] * 6


def test_round_robin_by_weight(cluster: LabCluster) -> None:
    for host in HOSTS:
        cluster[host].listen(TURNS, 82)
    cluster.await_targets(82, set(HOSTS), vip=TURNS)
    greetings = cluster.client.fetch(TURNS, 82, 20)
    assert greetings == greetings[:5] * 4
    assert Counter(greetings[:5]) == {"host1": 1, "host2": 1, "host3": 3}


def test_round_robin_keeps_a_connection_at_its_target(cluster: LabCluster) -> None:
    for host in HOSTS:
        cluster[host].listen(TURNS, 83)
    cluster.await_targets(83, set(HOSTS), vip=TURNS)
    connections = [cluster.client.connect(TURNS, 83) for _ in range(10)]
    for connection in connections * 3:
        assert connection.say("again") == "again"


def test_the_method_changes_while_it_runs(cluster: LabCluster) -> None:
    for host in HOSTS[:2]:
        cluster[host].listen(VIP, 84)
    cluster.await_targets(84, set(HOSTS[:2]))
    for method in ("round-robin", "hash"):
        assert cluster.anyport("host2", "vip", "set", VIP, "--method", method).returncode == 0
        cluster.settle()
        greetings = cluster.client.fetch(VIP, 84, 40)
        assert (greetings == greetings[:2] * 20) is (method == "round-robin")
        assert set(greetings) == set(HOSTS[:2])


def test_a_udp_service(cluster: LabCluster) -> None:
    """Flows are shared; one flow stays where it is."""
    for host in HOSTS:
        cluster[host].bind_udp(VIP, 5353)
    cluster.await_targets(5353, set(HOSTS), "udp")
    assert set(cluster.client.ask_udp(VIP, 5353, 60)) == set(HOSTS)
    assert len(set(cluster.client.ask_udp(VIP, 5353, 20, source=7777))) == 1
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, 5353)


@pytest.mark.parametrize("client_mptcp", [False, True])
def test_an_mptcp_listener(cluster: LabCluster, client_mptcp: bool) -> None:
    """Go's default since 1.24. It is closed once it is closed, too."""
    opened = cluster["host2"].listen(VIP, 85, mptcp=True)
    cluster.await_targets(85, {"host2"})
    connection = cluster.client.connect(VIP, 85, mptcp=client_mptcp)
    assert connection.greeting == "host2"
    assert connection.say("over MPTCP") == "over MPTCP"
    opened.close()
    cluster.await_targets(85, set())


def test_an_mptcp_listener_on_port_0(cluster: LabCluster) -> None:
    opened = cluster["host2"].listen(VIP, mptcp=True)
    assert cluster.client.fetch(VIP, opened.port, 1) == ["host2"]


def test_an_ipv6_socket_bound_to_the_mapped_vip(cluster: LabCluster) -> None:
    mapped = f"::ffff:{VIP}"
    cluster["host2"].listen(mapped, 86)
    cluster.await_targets(86, {"host2"})
    assert cluster.client.fetch(VIP, 86, 1) == ["host2"]
    opened = cluster["host3"].listen(mapped)
    assert cluster.client.fetch(VIP, opened.port, 1) == ["host3"]


def test_a_wildcard_ipv6_listener_does_not_stand_in_for_a_mapped_one(cluster: LabCluster) -> None:
    opened = cluster["host2"].listen(f"::ffff:{VIP}", 87, reuse_port=True)
    cluster["host2"].listen("::", 87, reuse_port=True)
    cluster.await_targets(87, {"host2"})
    opened.close()
    cluster.await_targets(87, set())
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, 87)


def test_the_connections_shown(cluster: LabCluster) -> None:
    """The distributor shows all; a target its own."""
    distributor = cluster.distributor()
    target = next(host for host in HOSTS if host != distributor)
    cluster[target].listen(VIP, 88)
    cluster.await_targets(88, {target})
    connection = cluster.client.connect(VIP, 88)
    row = {
        "protocol": "tcp",
        "client": cluster.address("client"),
        "client_port": connection.port,
        "vip": VIP,
        "port": 88,
        "host": target,
    }
    assert row in cluster.noun("connections", distributor, vip=VIP)
    assert cluster.noun("connections", target, vip=VIP) == [row]
    [port] = cluster.noun("ports", distributor, vip=VIP)
    assert [t["connections"] for t in port["targets"]] == [1]
    [port] = cluster.noun("ports", target, vip=VIP)
    assert [t["connections"] for t in port["targets"]] == [None]
    connection.close()
    eventually(lambda: not cluster.noun("connections", target, vip=VIP), "the connection to end")
