# SPDX-License-Identifier: Apache-2.0
"""A lab with a router: targets that are not on the distributor's LAN, and who is a candidate."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VIP6 = "fd77::80"
VIPS = pytest.mark.parametrize("vip", [VIP, VIP6])
CANDIDATES = ("host1", "host2")
FAR = "host3"
EVERYBODY = {*CANDIDATES, FAR}
MEGABYTE = 1 << 20
FAR_SUBNET = {
    VIP: "10.77.1.0/24 dev eth1 proto kernel scope link",
    VIP6: "fd77:0:0:1::/64 dev eth1 proto kernel metric 256",
}
CLIENT_SUBNET = {
    VIP: "10.77.2.0/24 dev eth2 proto kernel scope link",
    VIP6: "fd77:0:0:2::/64 dev eth2 proto kernel metric 256",
}


@pytest.fixture(scope="module")
def shared() -> Iterator[LabCluster]:
    """Leases outlast every restart."""
    with lab_cluster("routed", 3, settings={"registry": {"ttl": 120}}, routed=True) as cluster:
        cluster.lab.client("host1").add_vip(VIP6)
        cluster.await_ready()
        yield cluster


@pytest.fixture
def cluster(shared: LabCluster) -> Iterator[LabCluster]:
    yield shared
    for host in shared.lab.hosts:
        if shared.lab.daemon_pid(host) is None:
            shared.lab.start_daemon(host)
    shared.await_ready()
    shared.reset()


def path(cluster: LabCluster, here: str, host: str, vip: str) -> str:
    return str(way(cluster, here, host, vip)["path"])


def way(cluster: LabCluster, here: str, host: str, vip: str) -> Any:
    """As `anyport hosts` on `here` shows it."""
    family = "ipv6" if ":" in vip else "ipv4"
    rows = json.loads(cluster.anyport(here, "hosts", "--json").stdout)
    [row] = [row for row in rows if row["host"] == host]
    [found] = [found for found in row["paths"] if found["family"] == family]
    return found


def await_path(cluster: LabCluster, here: str, host: str, vip: str, expected: str) -> None:
    eventually(
        lambda: path(cluster, here, host, vip) == expected,
        f"the path from {here} to {host} to be {expected}",
    )


def await_end(cluster: LabCluster, here: str, vip: str, end: str) -> None:
    eventually(lambda: way(cluster, here, FAR, vip)["address"] == end, f"the path to end at {end}")


def other_candidate(cluster: LabCluster, vip: str) -> str:
    [other] = {*CANDIDATES} - {cluster.distributor(vip)}
    return other


def status_of(cluster: LabCluster, host: str, vip: str) -> Any:
    [row] = [row for row in cluster.noun("status", host)["vips"] if row["vip"] == vip]
    return row


def route(cluster: LabCluster, node: str, *words: str) -> None:
    cluster.run(
        node, "ip", *(["-6"] if any(":" in word for word in words) else []), "route", *words
    )


@contextmanager
def narrow(cluster: LabCluster, subnet: str, mtu: int) -> Iterator[None]:
    """The router takes packets to the subnet only up to `mtu` bytes."""
    route(cluster, "router", "change", *subnet.split(), "mtu", str(mtu))
    try:
        yield
    finally:
        route(cluster, "router", "change", *subnet.split())
        for node in (*cluster.lab.hosts, "client"):
            for family in ("-4", "-6"):
                cluster.run(node, "ip", family, "route", "flush", "cache")


@contextmanager
def configured(cluster: LabCluster, name: str, **sections: dict[str, Any]) -> Iterator[None]:
    """The daemon of that host runs with them."""

    def restart(sections: dict[str, dict[str, Any]]) -> None:
        cluster.lab.kill_daemon(name)
        cluster.settings(name, {**sections, "registry": {"ttl": 120}})
        cluster.lab.start_daemon(name)

    restart(sections)
    try:
        yield
    finally:
        restart({})


# ---- who is a candidate ----


@VIPS
def test_only_hosts_on_the_lan_of_the_vip_are_candidates(cluster: LabCluster, vip: str) -> None:
    for host in CANDIDATES:
        assert status_of(cluster, host, vip)["candidate"]
    row = status_of(cluster, FAR, vip)
    assert row["candidate"] is False
    assert row["no_candidate_because"] == "the VIP is not on-link at its LAN interface"
    assert cluster.distributor(vip) in CANDIDATES


def test_when_the_candidates_are_gone_nobody_else_takes_over(cluster: LabCluster) -> None:
    for host in CANDIDATES:
        cluster.leave(host)
    eventually(lambda: len(cluster.noun("hosts", FAR)) == 1, "the others to be gone")
    assert cluster.lab.client(FAR).vip(VIP)["distributor"] is None
    problems = cluster.noun("status", FAR)["problems"]
    assert f"vip {VIP}: no host distributes it" in problems


def test_a_host_is_a_candidate_once_the_vip_is_on_link(cluster: LabCluster) -> None:
    key = f"/anyport/v1/hosts/{FAR}/candidates/{VIP}"
    with cluster.watched(f"/anyport/v1/hosts/{FAR}/") as watch:
        route(cluster, FAR, "add", f"{VIP}/32", "dev", "eth0")
        watch.until(f"put {key}")
        assert status_of(cluster, FAR, VIP)["candidate"]
        route(cluster, FAR, "del", f"{VIP}/32", "dev", "eth0")
        watch.until(f"delete {key}")


def test_an_operator_may_make_it_a_candidate_all_the_same(cluster: LabCluster) -> None:
    with configured(cluster, FAR, distributor={"candidate": True, "rank": 200}):
        assert status_of(cluster, FAR, VIP)["candidate"]


# ---- the path ----


@VIPS
def test_the_path_follows_from_the_route(cluster: LabCluster, vip: str) -> None:
    here = cluster.distributor(vip)
    assert path(cluster, here, here, vip) == "local"
    assert path(cluster, here, other_candidate(cluster, vip), vip) == "l2"
    assert path(cluster, here, FAR, vip) == "ipip"
    version = "IPv6" if ":" in vip else "IPv4"
    behind = [line for line in cluster.log(here).splitlines() if f"host {FAR}: {version}" in line]
    assert " by ipip to " in behind[-1]


@VIPS
def test_a_target_behind_the_router_is_one_like_any_other(cluster: LabCluster, vip: str) -> None:
    for host in EVERYBODY:
        cluster[host].listen(vip, 80)
        cluster[host].bind_udp(vip, 53)
    cluster.await_targets(80, EVERYBODY, vip=vip)
    cluster.await_targets(53, EVERYBODY, "udp", vip)
    assert set(cluster.client.fetch(vip, 80, 60)) == EVERYBODY
    assert set(cluster.client.ask_udp(vip, 53, 60)) == EVERYBODY
    counted = json.loads(cluster.anyport(FAR, "counters", "--json").stdout)
    assert {row["reason"] for row in counted if row["program"] == "target"} >= {"decapsulated"}


@VIPS
def test_a_unique_port_of_it_is_reached(cluster: LabCluster, vip: str) -> None:
    opened = cluster[FAR].listen(vip)
    udp = cluster[FAR].bind_udp(vip)
    assert cluster.client.fetch(vip, opened.port, 3) == [FAR] * 3
    assert cluster.client.ask_udp(vip, udp.port, 3) == [FAR] * 3


@VIPS
def test_a_port_without_a_listener_there_is_refused(cluster: LabCluster, vip: str) -> None:
    opened = cluster[FAR].listen(vip)
    cluster.await_targets(opened.port, {FAR}, vip=vip)
    opened.close()
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(vip, opened.port)


@VIPS
def test_much_goes_there_and_comes_back_unchanged(cluster: LabCluster, vip: str) -> None:
    cluster[FAR].listen(vip, 80)
    cluster.await_targets(80, {FAR}, vip=vip)
    assert cluster.client.connect(vip, 80).echo(20 * MEGABYTE)


@pytest.mark.parametrize(("vip", "headers"), [(VIP, 20 + 20), (VIP6, 40 + 20)])
def test_the_mss_that_it_announces_fits(cluster: LabCluster, vip: str, headers: int) -> None:
    """The longest outer header is IPv6's, of 40 bytes; timestamps take 12 of each segment."""
    assert cluster.noun("status", FAR)["tunnel_overhead"] == 40
    assert [cluster.noun("status", host)["tunnel_overhead"] for host in CANDIDATES] == [0, 0]
    for host, outer in ((FAR, 40), (cluster.distributor(vip), 0)):
        port = cluster[host].listen(vip).port
        cluster.client.connect(vip, port)
        shown = cluster.run("client", "ss", "-tinH", "dport", "=", str(port))
        assert f" mss:{1500 - outer - headers - 12} " in shown


@pytest.mark.parametrize(("vip", "header"), [(VIP, 20), (VIP6, 40)])
def test_a_narrow_link_to_the_target_is_told_to_the_client(
    cluster: LabCluster, vip: str, header: int
) -> None:
    """By the router to the distributor, and by that one, less the outer header, to the client."""
    cluster[FAR].listen(vip, 80)
    cluster.await_targets(80, {FAR}, vip=vip)
    with narrow(cluster, FAR_SUBNET[vip], 1400):
        assert cluster.client.connect(vip, 80).echo(4 * MEGABYTE)
        shown = cluster.run("client", "ip", "route", "get", vip)
        assert f"mtu {1400 - header} " in shown


@VIPS
def test_a_narrow_link_to_the_client_is_told_to_the_target(cluster: LabCluster, vip: str) -> None:
    """By the router to the VIP, so by the distributor to who has the connection."""
    cluster[FAR].listen(vip, 80)
    cluster.await_targets(80, {FAR}, vip=vip)
    client = cluster.lab.node("client")
    with narrow(cluster, CLIENT_SUBNET[vip], 1300):
        assert cluster.client.connect(vip, 80).echo(4 * MEGABYTE)
        address = client.address6 if vip == VIP6 else client.address
        assert "mtu 1300 " in cluster.run(FAR, "ip", "route", "get", address, "from", vip)


@VIPS
def test_a_route_that_changes_moves_the_path_under_living_connections(
    cluster: LabCluster, vip: str
) -> None:
    here, target = cluster.distributor(vip), other_candidate(cluster, vip)
    node = cluster.lab.node(target)
    address, gateway = (
        (f"{node.address6}/128", "fd77::253")
        if vip == VIP6
        else (f"{node.address}/32", "10.77.0.253")
    )
    cluster[target].listen(vip, 80)
    cluster.await_targets(80, {target}, vip=vip)
    connection = cluster.client.connect(vip, 80)
    for verb, expected in (("add", "ipip"), ("del", "l2")):
        route(cluster, here, verb, address, "via", gateway)
        await_path(cluster, here, target, vip, expected)
        assert connection.say(expected) == expected
        assert cluster.client.fetch(vip, 80, 3) == [target] * 3


@VIPS
def test_the_other_family_carries_what_its_own_cannot(cluster: LabCluster, vip: str) -> None:
    """4in6 and 6in4; and back, under a living connection."""
    here, node = cluster.distributor(vip), cluster.lab.node(FAR)
    own, other = sorted((node.address, node.address6), key=lambda a: (":" in a) != (":" in vip))
    cluster[FAR].listen(vip, 80)
    cluster.await_targets(80, {FAR}, vip=vip)
    connection = cluster.client.connect(vip, 80)
    for verb, end in (("add", other), ("del", own)):
        route(cluster, here, verb, "unreachable", own)
        await_end(cluster, here, vip, end)
        assert connection.echo(MEGABYTE)


def test_a_host_may_wish_for_its_path(cluster: LabCluster) -> None:
    here, target = cluster.distributor(VIP), other_candidate(cluster, VIP)
    cluster[target].listen(VIP, 80)
    cluster.await_targets(80, {target})
    with configured(cluster, target, host={"path": "ipip"}):
        await_path(cluster, here, target, VIP, "ipip")
        assert "its host.path says so" in cluster.anyport(here, "status").stdout
        assert cluster.client.fetch(VIP, 80, 3) == [target] * 3
    await_path(cluster, here, target, VIP, "l2")


# ---- takeover and restarts ----


@VIPS
def test_a_takeover_goes_on_with_the_target_behind_the_router(
    cluster: LabCluster, vip: str
) -> None:
    """Whose daemon does nothing meanwhile: it has known the next distributor beforehand."""
    before, after = cluster.distributor(vip), other_candidate(cluster, vip)
    cluster[FAR].listen(vip, 80)
    cluster.await_targets(80, {FAR}, vip=vip)
    connection = cluster.client.connect(vip, 80)
    with cluster.stopped(FAR):
        cluster.lab.kill_daemon(before, signal.SIGTERM)
        eventually(
            lambda: status_of(cluster, after, vip)["distributing_here"],
            "the other candidate to take over",
        )
        assert connection.say("with the next") == "with the next"
        assert cluster.client.fetch(vip, 80, 10) == [FAR] * 10


@VIPS
def test_the_target_takes_packets_while_its_daemon_is_away(cluster: LabCluster, vip: str) -> None:
    cluster[FAR].listen(vip, 80)
    cluster.await_targets(80, {FAR}, vip=vip)
    connection = cluster.client.connect(vip, 80)
    cluster.lab.kill_daemon(FAR)
    assert connection.say("without it") == "without it"
    cluster.lab.start_daemon(FAR)
    assert connection.say("with it") == "with it"
    assert cluster.client.fetch(vip, 80, 3) == [FAR] * 3


def test_packets_go_on_while_no_candidate_has_a_daemon(cluster: LabCluster) -> None:
    """Both have left the registry; who distributed last does so still (and is still believed)."""
    cluster[FAR].listen(VIP, 80)
    cluster.await_targets(80, {FAR})
    connection = cluster.client.connect(VIP, 80)
    for host in (other_candidate(cluster, VIP), cluster.distributor()):
        cluster.leave(host)
    eventually(lambda: len(cluster.noun("hosts", FAR)) == 1, "the candidates to be gone")
    assert connection.say("without them") == "without them"


# ---- the command ----


def test_detach_leaves_no_end_of_a_tunnel(cluster: LabCluster) -> None:
    """Afterwards what comes in an outer packet is not taken out of it."""
    cluster.lab.kill_daemon(FAR, signal.SIGTERM)
    try:
        assert cluster.anyport(FAR, "detach").returncode == 0
        shown = cluster.run(FAR, "bpftool", "net", "show")
        assert "decapsulate" not in shown
        assert "announce" not in shown
    finally:
        cluster.lab.start_daemon(FAR)
