# SPDX-License-Identifier: Apache-2.0
"""`[distributor] hook`: the whole of anyport with its packets met in the driver."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = {"host1", "host2", "host3"}
# The far end of a veth takes what XDP sends only if it has a program of its own: this has no VIP.
PORT = """
import socket, sys
from pathlib import Path
from anyport.kernel.distribute import DistributorKernel
index = socket.if_nametoindex(sys.argv[1])
DistributorKernel.attach(index, Path(sys.argv[2]), 1024, 7, in_xdp=True).close()
"""
# Nor does it make good the checksums that a veth's sender leaves to its hardware.
CHECKSUMS = """
import array, fcntl, socket, struct
off = array.array("I", [0x17, 0])  # ETHTOOL_STXCSUM
request = struct.pack("16sP", b"eth0", off.buffer_info()[0]).ljust(40, b"\\0")
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)  # SIOCETHTOOL
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LabCluster]:
    settings = {"distributor": {"hook": "xdp"}}
    with lab_cluster("hook", settings=settings) as cluster:
        cluster.run("client", sys.executable, "-c", CHECKSUMS)
        for host in HOSTS:
            pins = cluster.lab.node("lan").pins / host
            cluster.run("lan", sys.executable, "-c", PORT, host, str(pins))
        yield cluster


def test_connections_datagrams_and_unique_ports_through_xdp(cluster: LabCluster) -> None:
    assert cluster.noun("status", "host1")["hook"] == {"name": "xdp", "why": "configured"}
    opened = {host: cluster[host].listen(VIP) for host in HOSTS}
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
        cluster[host].bind_udp(VIP, 53)
    cluster.await_targets(80, HOSTS)
    cluster.await_targets(53, HOSTS, "udp")
    before = cluster.packets(cluster.distributor(), "selected")
    assert set(cluster.client.fetch(VIP, 80, 60)) == HOSTS
    assert cluster.packets(cluster.distributor(), "selected") == before + 60
    assert set(cluster.client.ask_udp(VIP, 53, 60)) == HOSTS
    for host, listener in opened.items():
        cluster.await_targets(listener.port, {host})
        assert cluster.client.fetch(VIP, listener.port, 3) == [host] * 3
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, 81)


def test_from_xdp_to_tc_while_connections_live(cluster: LabCluster) -> None:
    """On veth `auto` is TC, and status says why."""
    for host in HOSTS:
        cluster[host].listen(VIP, 82)
    cluster.await_targets(82, HOSTS)
    connections = [cluster.client.connect(VIP, 82) for _ in range(20)]
    here = cluster.distributor()
    cluster.settings(here, {"distributor": {"hook": "auto"}})
    cluster.lab.kill_daemon(here, signal.SIGKILL)
    cluster.lab.start_daemon(here)
    eventually(lambda: cluster.noun("status", here)["hook"]["name"] == "tc", "TC")
    assert "driver veth" in cluster.noun("status", here)["hook"]["why"]
    for number, connection in enumerate(connections):
        assert connection.say(str(number)).endswith(str(number))
