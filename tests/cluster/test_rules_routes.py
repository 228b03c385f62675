# SPDX-License-Identifier: Apache-2.0
"""R2-R6, R8 and R9 on a cluster of three: a VIP whose ports are not enumerated."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.lab_cluster import VIP, LabCluster, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    with lab_cluster("routes") as cluster:
        yield cluster


@pytest.fixture
def cluster(lab: LabCluster) -> Iterator[LabCluster]:
    yield lab
    lab.reset()


# ---- R2 ----


def test_a_listener_bound_to_the_vip_is_reached_whatever_its_port(cluster: LabCluster) -> None:
    for port in (1, 80, 31000, 65535):
        cluster["host2"].listen(VIP, port)
        cluster.await_targets(port, {"host2"})
        assert cluster.client.fetch(VIP, port, 1) == ["host2"]


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_a_wildcard_listener_never_counts(cluster: LabCluster, wildcard: str) -> None:
    for host in HOSTS:
        cluster[host].listen(wildcard, 2000)
        cluster[host].listen(VIP, 2001)
    cluster.await_targets(2001, set(HOSTS))
    assert {port for _, _, port in cluster.listeners()} == {2001}
    assert cluster.targets(2000) == set()
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, 2000)
    assert cluster.client.fetch(cluster.address("host2"), 2000, 1) == ["host2"]


# ---- R4 ----


def test_every_program_s_listener_is_told_with_user_and_process(cluster: LabCluster) -> None:
    cluster["host3"].listen(VIP, 2100)
    cluster.await_targets(2100, {"host3"})
    [row] = cluster.noun("listeners", "host2", vip=VIP)
    assert row.pop("process").startswith("python")
    assert row == {
        "vip": VIP,
        "protocol": "tcp",
        "port": 2100,
        "host": "host3",
        "specific": True,
        "user": "root",
    }


def test_a_killed_program_s_listener_is_closed(cluster: LabCluster) -> None:
    program = cluster.extra("host2")
    program.listen(VIP, 2200)
    cluster.await_targets(2200, {"host2"})
    program.kill()
    cluster.await_targets(2200, set())


# ---- R5 ----


def test_the_port_table_follows_the_listeners(cluster: LabCluster) -> None:
    for count in (1, 2, 3):
        cluster[HOSTS[count - 1]].listen(VIP, 2300)
        cluster.await_targets(2300, set(HOSTS[:count]))
        assert set(cluster.client.fetch(VIP, 2300, 40)) == set(HOSTS[:count])


def test_a_target_that_has_gone_gets_no_new_connections(cluster: LabCluster) -> None:
    opened = {host: cluster[host].listen(VIP, 2301) for host in HOSTS}
    cluster.await_targets(2301, set(HOSTS))
    opened["host2"].close()
    cluster.await_targets(2301, {"host1", "host3"})
    assert set(cluster.client.fetch(VIP, 2301, 40)) == {"host1", "host3"}


# ---- R6 ----


def test_hash_gives_every_target_its_share(cluster: LabCluster) -> None:
    for host in HOSTS:
        cluster[host].listen(VIP, 2400)
    cluster.await_targets(2400, set(HOSTS))
    shares = Counter(cluster.client.fetch(VIP, 2400, 300))
    assert all(shares[host] > 50 for host in HOSTS), shares


def test_a_connection_keeps_its_target_whatever_closes_and_joins(cluster: LabCluster) -> None:
    """Its listener closes, others come, others go: every segment still goes where the first did."""
    opened = {host: cluster[host].listen(VIP, 2401) for host in HOSTS[:2]}
    cluster.await_targets(2401, set(opened))
    connections = [cluster.client.connect(VIP, 2401) for _ in range(30)]
    assert {connection.greeting for connection in connections} == set(opened)

    cluster["host3"].listen(VIP, 2401)
    cluster.await_targets(2401, set(HOSTS))
    opened["host1"].close()
    cluster.await_targets(2401, {"host2", "host3"})
    opened["host2"].close()
    cluster.await_targets(2401, {"host3"})
    assert [connection.say("still there") for connection in connections] == ["still there"] * 30

    assert set(cluster.client.fetch(VIP, 2401, 10)) == {"host3"}


def test_a_connection_outlives_the_last_listener_of_its_port(cluster: LabCluster) -> None:
    target = next(host for host in HOSTS if host != cluster.distributor())
    opened = cluster[target].listen(VIP, 2402)
    cluster.await_targets(2402, {target})
    connection = cluster.client.connect(VIP, 2402)
    opened.close()
    cluster.await_targets(2402, set())
    assert connection.say("alone") == "alone"
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, 2402)


# ---- R8 ----


def test_a_port_without_a_listener_is_refused(cluster: LabCluster) -> None:
    """Seen by the client: RST, ICMP port unreachable. Anything less would time out."""
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, 2500)
    with pytest.raises(ConnectionRefusedError):
        cluster.client.ask_udp(VIP, 2500)


def test_the_distributor_s_own_services_are_refused_on_the_vip(cluster: LabCluster) -> None:
    own = cluster[cluster.distributor()]
    own.listen("0.0.0.0", 2501)
    own.bind_udp("0.0.0.0", 2501)
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, 2501)
    with pytest.raises(ConnectionRefusedError):
        cluster.client.ask_udp(VIP, 2501)
    address = cluster.address(own.node)
    assert cluster.client.fetch(address, 2501, 1) == [own.node]
    assert cluster.client.ask_udp(address, 2501) == [own.node]


def test_a_target_s_own_services_are_refused_on_the_vip(cluster: LabCluster) -> None:
    """The packet does come to the target: its daemon cannot tell that the listener has gone."""
    own = cluster[next(host for host in HOSTS if host != cluster.distributor())]
    opened = own.listen(VIP, 2502)
    cluster.await_targets(2502, {own.node})
    with cluster.stopped(own.node):
        opened.close()
        own.listen("0.0.0.0", 2502)
        with pytest.raises(ConnectionRefusedError):
            cluster.client.connect(VIP, 2502)
        assert cluster.client.fetch(cluster.address(own.node), 2502, 1) == [own.node]


def test_a_target_s_own_udp_service_gets_nothing_of_an_older_flow(cluster: LabCluster) -> None:
    """A flow keeps its target after the port has no route; the wildcard there is no heir."""
    own = cluster[next(host for host in HOSTS if host != cluster.distributor())]
    opened = own.bind_udp(VIP, 2503)
    cluster.await_targets(2503, {own.node}, "udp")
    assert cluster.client.ask_udp(VIP, 2503, source=9999) == [own.node]
    opened.close()
    cluster.await_targets(2503, set(), "udp")
    own.bind_udp("0.0.0.0", 2503)
    with pytest.raises(ConnectionRefusedError):
        cluster.client.ask_udp(VIP, 2503, source=9999)


# ---- R9 ----


def fields(frame: bytes) -> tuple[bytes, str, int, int, int]:
    """Of an Ethernet frame with TCP: source MAC, source address, TTL, source port, flags."""
    header = 14 + (frame[14] & 15) * 4
    address = ".".join(map(str, frame[26:30]))
    port = int.from_bytes(frame[header : header + 2], "big")
    return frame[6:12], address, frame[22], port, frame[header + 13]


def test_replies_come_straight_from_the_target_under_the_vip(cluster: LabCluster) -> None:
    target = next(host for host in HOSTS if host != cluster.distributor())
    cluster[target].listen(VIP, 2600)
    cluster.await_targets(2600, {target})
    [wire] = cluster.client.do("wire", interface="eth0")
    cluster.client.connect(VIP, 2600).say("all the way")
    replies: list[bytes] = []
    while not any(b"all the way" in reply for reply in replies):
        frame = bytes.fromhex(cluster.client.do("frame", number=wire))
        if frame[12:14] == b"\x08\x00" and frame[23] == 6:
            replies.append(frame)
    assert {fields(reply)[:4] for reply in replies} == {(cluster.mac(target), VIP, 64, 2600)}


def test_what_is_forwarded_is_as_it_came_but_for_one_hop(cluster: LabCluster) -> None:
    """At the target: the client's address and port, the VIP, TTL one less; from the distributor."""
    target = next(host for host in HOSTS if host != cluster.distributor())
    cluster[target].listen(VIP, 2601)
    cluster.await_targets(2601, {target})
    [wire] = cluster[target].do("wire", interface="eth0")
    connection = cluster.client.connect(VIP, 2601)
    while True:
        frame = bytes.fromhex(cluster[target].do("frame", number=wire))
        if frame[12:14] == b"\x08\x00" and frame[23] == 6 and frame[36:38] == (2601).to_bytes(2):
            break
    mac, address, ttl, port, flags = fields(frame)
    assert mac == cluster.mac(cluster.distributor())
    assert (address, port) == (cluster.address("client"), connection.port)
    assert ".".join(map(str, frame[30:34])) == VIP
    assert (ttl, flags & 0x12) == (63, 0x02)
