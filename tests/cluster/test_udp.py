# SPDX-License-Identifier: Apache-2.0
"""UDP by flow, end to end, both families: how servers bind and answer, idle time, fragments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster
from tests.support.packets import ethernet, fragments4, fragments6, udp_between

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2")
VIP6 = "fd77::80"
TURNS, TURNS6 = "10.77.0.81", "fd77::81"
ENUMERATED, ENUMERATED6 = "10.77.0.82", "fd77::82"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    with lab_cluster("udp", len(HOSTS)) as cluster:
        operator = cluster.lab.client("host1")
        operator.add_vip(VIP6)
        for vip in (TURNS, TURNS6):
            operator.add_vip(vip, method="round-robin", udp_idle=1)
        for vip in (ENUMERATED, ENUMERATED6):
            operator.add_vip(vip, ports="53/udp", method="round-robin")
        cluster.await_ready()
        yield cluster


@pytest.fixture
def cluster(lab: LabCluster) -> Iterator[LabCluster]:
    yield lab
    lab.reset()


@pytest.mark.parametrize(("vip", "wildcard"), [(ENUMERATED, "0.0.0.0"), (ENUMERATED6, "::")])
def test_a_server_on_a_wildcard_answers_from_the_vip(
    cluster: LabCluster, vip: str, wildcard: str
) -> None:
    """By IP_PKTINFO; what came from elsewhere the client's connected socket would not take."""
    for host in HOSTS:
        cluster[host].bind_udp(wildcard, 53)
    cluster.await_targets(53, set(HOSTS), "udp", vip)
    answered = cluster.client.ask_udp(vip, 53, 6)
    assert answered == answered[:2] * 3
    assert set(answered) == set(HOSTS)


@pytest.mark.parametrize("vip", [ENUMERATED, ENUMERATED6])
def test_a_server_with_a_socket_for_each_client(cluster: LabCluster, vip: str) -> None:
    """Bound to the VIP as well, and connected: its client's datagrams come there, others not."""
    servers = {h: cluster[h].bind_udp(vip, 53, quiet=True, reuse_address=True) for h in HOSTS}
    cluster.await_targets(53, set(HOSTS), "udp", vip)
    for host, server in servers.items():
        cluster[host].begin("answer_apart", number=server.number)
    first = {source: cluster.client.ask_udp(vip, 53, source=source) for source in (30001, 30002)}
    for host in HOSTS:
        cluster[host].end("answer_apart")
    assert sorted(first.values()) == [["host1"], ["host2"]]
    for source, [host] in first.items():
        asked = {"address": vip, "port": 53, "count": 3, "source": source, "whole": True}
        assert cluster.client.do("ask_udp", **asked) == [f"{host} apart ?"] * 3
    assert set(cluster.client.ask_udp(vip, 53, 2)) == set(HOSTS)


@pytest.mark.parametrize("vip", [TURNS, TURNS6])
def test_a_flow_moves_after_its_idle_time_only(cluster: LabCluster, vip: str) -> None:
    """By turns: a flow that is selected anew goes to the other host."""
    for host in HOSTS:
        cluster[host].bind_udp(vip, 5000)
    cluster.await_targets(5000, set(HOSTS), "udp", vip)
    distributor = cluster.distributor(vip)
    answered = cluster.client.ask_udp(vip, 5000, 20, source=31000)
    assert len(set(answered)) == 1
    eventually(lambda: not cluster.noun("connections", distributor, vip=vip), "the flow to be idle")
    [moved] = cluster.client.ask_udp(vip, 5000, source=31000)
    assert {moved, answered[0]} == set(HOSTS)


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_datagrams_of_any_size_are_one_flow(cluster: LabCluster, vip: str) -> None:
    """Up to the longest there is; the answers come in fragments as well."""
    for host in HOSTS:
        cluster[host].bind_udp(vip, 5001)
    cluster.await_targets(5001, set(HOSTS), "udp", vip)
    seen = set()
    for source in range(32000, 32010):
        [host] = cluster.client.ask_udp(vip, 5001, source=source)
        for length in (1472, 1473, 9000, 65000):
            assert cluster.client.ask_udp(vip, 5001, source=source, length=length) == [host]
        seen.add(host)
    assert seen == set(HOSTS)


@pytest.mark.parametrize("vip", [TURNS, TURNS6])
def test_fragments_that_come_backwards(cluster: LabCluster, vip: str) -> None:
    """By turns, so that no part goes right by chance."""
    for host in HOSTS:
        cluster[host].bind_udp(vip, 5002)
    cluster.await_targets(5002, set(HOSTS), "udp", vip)
    [wire] = cluster.client.do("wire", interface="eth0")
    answered = []
    for source in range(33000, 33004):
        asking = cluster.client.bind_udp("::" if ":" in vip else "0.0.0.0", source, quiet=True)
        for frame in reversed(fragments(cluster, vip, source)):
            cluster.client.do("send", number=wire, frame=frame.hex())
        answer = cluster.client.do("receive", number=asking.number)
        host, words = answer["words"].split()
        assert (answer["address"], answer["port"], words) == (vip, 5002, "?" * 5000)
        answered.append(host)
        asking.close()
    assert answered == answered[:2] * 2
    assert set(answered) == set(HOSTS)


def fragments(cluster: LabCluster, vip: str, source: int) -> list[bytes]:
    """Frames of a datagram of 5,000 bytes."""
    client, destination = ip_address(cluster.client_address(vip)), ip_address(vip)
    datagram = udp_between(client, destination, source, 5002, b"?" * 5000)
    arguments = {"size": 1400, "identification": source}
    if isinstance(client, IPv6Address) and isinstance(destination, IPv6Address):
        kind, packets = 0x86DD, fragments6(client, destination, 17, datagram, **arguments)
    else:
        assert isinstance(client, IPv4Address)
        assert isinstance(destination, IPv4Address)
        kind, packets = 0x0800, fragments4(client, destination, 17, datagram, **arguments)
    ends = cluster.mac(cluster.distributor(vip)), cluster.mac("client")
    return [ethernet(*ends, kind, packet) for packet in packets]
