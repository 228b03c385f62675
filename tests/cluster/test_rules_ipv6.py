# SPDX-License-Identifier: Apache-2.0
"""An IPv6 VIP in a lab: what counts there, its ports, and how the LAN hears of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from anyport.kernel.ndp import advertisement
from tests.support.lab_cluster import LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VIP6 = "fd77::80"


@pytest.fixture(scope="module")
def shared() -> Iterator[LabCluster]:
    with lab_cluster("six", hosts=2, definition={"vip": VIP6}) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: LabCluster) -> Iterator[LabCluster]:
    yield shared
    shared.reset()
    shared.lab.client("host1").set_vip(VIP6, ports="any")


def test_every_host_has_the_vip_and_ports_to_hand_out(cluster: LabCluster) -> None:
    for host in cluster.lab.hosts:
        assert cluster.has_on_lo(host, VIP6)
        port = cluster[host].listen(VIP6).port
        cluster.await_targets(port, {host}, vip=VIP6)
        [row] = [row for row in cluster.noun("ports") if row["port"] == port]
        assert row["route"] == "unique"
        assert cluster.client.fetch(VIP6, port, 3) == [host] * 3


def test_any_port_specific_listeners_count(cluster: LabCluster) -> None:
    cluster["host1"].listen(VIP6, 80)
    cluster["host2"].listen(VIP6, 80)
    cluster["host1"].listen("::", 81)
    cluster["host2"].bind_udp(VIP6, 53)
    cluster.await_targets(80, {"host1", "host2"}, vip=VIP6)
    cluster.await_targets(53, {"host2"}, "udp", vip=VIP6)
    assert cluster.targets(81, vip=VIP6) == set()
    assert set(cluster.client.fetch(VIP6, 80, 40)) == {"host1", "host2"}
    assert cluster.client.ask_udp(VIP6, 53, 3) == ["host2"] * 3
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP6, 81)
    with pytest.raises(ConnectionRefusedError):
        cluster.client.ask_udp(VIP6, 54)


@pytest.mark.parametrize("v6only", [False, True])
def test_enumerated_wildcards_count(cluster: LabCluster, v6only: bool) -> None:
    cluster["host1"].listen("::", 80, v6only=v6only)
    cluster["host2"].listen("0.0.0.0", 80)
    cluster["host2"].listen(VIP6, 81)
    cluster.lab.client("host1").set_vip(VIP6, ports="80/tcp")
    cluster.await_targets(80, {"host1"}, vip=VIP6)
    assert cluster.targets(81, vip=VIP6) == set()
    assert cluster.client.fetch(VIP6, 80, 5) == ["host1"] * 5


def test_any_spelling_names_the_vip(cluster: LabCluster) -> None:
    shown = cluster.anyport("host2", "vip", "show", "FD77:0:0::80", "--json")
    assert shown.returncode == 0, shown.stderr
    cluster["host1"].listen(VIP6, 80)
    cluster.await_targets(80, {"host1"}, vip=VIP6)
    listed = cluster.anyport("host1", "ports", "fd77:0::0080")
    assert VIP6 in listed.stdout


def test_an_address_that_a_machine_has_is_refused(cluster: LabCluster) -> None:
    refused = cluster.anyport("host1", "vip", "add", cluster.lab.node("client").address6)
    assert refused.returncode == 2
    assert f"MAC {cluster.mac('client').hex(':')}" in refused.stderr


def test_a_takeover_is_announced(cluster: LabCluster) -> None:
    """By an unsolicited neighbour advertisement that reaches every node of the LAN."""
    old = cluster.distributor(VIP6)
    [new] = {"host1", "host2"} - {old}
    [wire] = cluster.client.do("wire", interface="eth0")
    announced = advertisement(cluster.mac(new), IPv6Address(VIP6)).hex()
    cluster.lab.kill_daemon(old, signal.SIGTERM)
    eventually(
        lambda: cluster.client.do("frame", number=wire) == announced, f"{new} to announce itself"
    )
    assert cluster.lab.client(new).vip(VIP6)["distributor"] == new
    cluster[new].listen(VIP6, 80)
    eventually(lambda: cluster.client.fetch(VIP6, 80, 5) == [new] * 5, "packets to go on")
    cluster.lab.start_daemon(old)
    cluster.await_ready()
