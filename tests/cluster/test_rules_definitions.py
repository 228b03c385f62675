# SPDX-License-Identifier: Apache-2.0
"""R1 and R3, and definitions that change while sockets listen already."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
SECOND = "10.77.0.81"
THIRD = "10.77.0.82"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    definition = {"vip": VIP, "ports": "80,8000-8010/tcp,53/udp"}
    with lab_cluster("defs", 3, definition, {"blocks": {"rest": 0}}) as cluster:
        yield cluster


@pytest.fixture
def cluster(lab: LabCluster) -> Iterator[LabCluster]:
    yield lab
    others = {row["vip"] for row in lab.noun("vips")} - {VIP}
    for vip in others:
        lab.lab.client("host1").delete_vip(vip)
    lab.reset()
    eventually(
        lambda: {row["vip"] for row in lab.noun("blocks")} <= {VIP},
        "the blocks of deleted VIPs to go",
    )


def define(cluster: LabCluster, *words: str) -> None:
    """A verb of `anyport vip`, which returns when it holds."""
    done = cluster.anyport("host1", "vip", *words)
    assert (done.returncode, done.stderr) == (0, "")
    if words[0] == "add":  # the other hosts follow
        for host in HOSTS if "--hosts" not in words else ():
            eventually(
                lambda host=host: cluster.has_on_lo(host, words[1]),  # type: ignore[misc]
                f"the VIP to be on {host}",
            )


def block_owners(cluster: LabCluster, vip: str) -> set[str]:
    return {row["host"] for row in cluster.noun("blocks") if row["vip"] == vip}


# ---- R3 ----


@pytest.mark.parametrize("address", [VIP, "0.0.0.0", "::"])
def test_on_an_enumerated_port_any_listener_counts(cluster: LabCluster, address: str) -> None:
    cluster["host2"].listen(address, 8000)
    cluster["host3"].listen(address, 8000)
    cluster.await_targets(8000, {"host2", "host3"})
    assert set(cluster.client.fetch(VIP, 8000, 20)) == {"host2", "host3"}
    [specific] = {row["specific"] for row in cluster.noun("listeners", vip=VIP)}
    assert specific is (address == VIP)


def test_an_enumerated_udp_port(cluster: LabCluster) -> None:
    cluster["host2"].bind_udp("0.0.0.0", 53)
    cluster["host2"].listen("0.0.0.0", 53)
    cluster.await_targets(53, {"host2"}, "udp")
    assert cluster.client.ask_udp(VIP, 53) == ["host2"]
    assert cluster.targets(53, "tcp") == set()
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, 53)


def test_on_any_other_port_no_listener_counts(cluster: LabCluster) -> None:
    """Nor does one of `::` that does not take IPv4, though its port is enumerated."""
    cluster["host2"].listen(VIP, 81)
    cluster["host2"].listen("0.0.0.0", 82)
    cluster["host2"].listen("::", 8001, v6only=True)
    cluster["host2"].listen(VIP, 80)
    cluster.await_targets(80, {"host2"})
    assert cluster.listeners() == {("host2", "tcp", 80)}
    for port in (81, 82, 8001):
        with pytest.raises(ConnectionRefusedError):
            cluster.client.connect(VIP, port)


def test_on_an_enumerated_vip_bind_to_port_0_is_unique_and_counts(cluster: LabCluster) -> None:
    opened = {host: cluster[host].listen(VIP) for host in HOSTS}
    assert len({made.port for made in opened.values()}) == 3
    for host, made in opened.items():
        assert cluster.client.fetch(VIP, made.port, 1) == [host]
        cluster.await_targets(made.port, {host})
    rows = cluster.noun("ports", vip=VIP)
    assert {row["route"] for row in rows} == {"unique"}
    assert {row["port"] for row in rows} == {made.port for made in opened.values()}


# ---- R1 ----


def test_what_holds_is_what_the_distributor_published(cluster: LabCluster) -> None:
    """While the distributor can't publish, the operator's wish changes nothing on any host."""
    distributor = cluster.distributor()
    other, third = sorted(set(HOSTS) - {distributor})
    cluster[other].listen("0.0.0.0", 4000)
    cluster[other].listen("0.0.0.0", 8000)
    cluster.await_targets(8000, {other})
    wish = '{"v":1,"ports":"4000/tcp","method":"hash"}'
    before = cluster.lab.client(third).vip(VIP)["ports"]
    with cluster.stopped(distributor):
        cluster.write("put", f"/anyport/v1/vips/{VIP}", wish)
        for host in (other, third):
            eventually(
                lambda host=host: cluster.lab.client(host).vip(VIP)["ports"] == "4000/tcp",  # type: ignore[misc]
                f"{host} to have the wish",
            )
        cluster[other].listen("0.0.0.0", 8002)
        eventually(
            lambda: (other, "tcp", 8002) in cluster.listeners(third),
            "a listener on what the published definition enumerates to count",
        )
        assert cluster.listeners(third) == {(other, "tcp", 8000), (other, "tcp", 8002)}
    cluster.await_targets(4000, {other})
    assert cluster.listeners() == {(other, "tcp", 4000)}
    define(cluster, "set", VIP, "--ports", before)


# ---- while sockets listen ----


def test_sockets_that_listen_already_count_at_once_when_a_vip_is_added(
    cluster: LabCluster,
) -> None:
    cluster["host2"].listen("0.0.0.0", 7000)
    cluster["host3"].listen("::", 7000)
    cluster["host3"].bind_udp("0.0.0.0", 7000)
    define(cluster, "add", SECOND, "--ports", "7000")
    cluster.await_targets(7000, {"host2", "host3"}, vip=SECOND)
    cluster.await_targets(7000, {"host3"}, "udp", vip=SECOND)
    assert set(cluster.client.fetch(SECOND, 7000, 20)) == {"host2", "host3"}
    assert cluster.client.ask_udp(SECOND, 7000) == ["host3"]
    assert cluster.targets(7000) == set()


def test_widened_and_narrowed(cluster: LabCluster) -> None:
    define(cluster, "add", SECOND, "--ports", "7000/tcp")
    cluster["host2"].listen("0.0.0.0", 7000)
    cluster["host2"].listen("0.0.0.0", 7001)
    cluster["host3"].listen(SECOND, 7002)
    cluster.await_targets(7000, {"host2"}, vip=SECOND)
    assert len(cluster.listeners(vip=SECOND)) == 1

    define(cluster, "set", SECOND, "--ports", "7000-7002/tcp")
    cluster.await_targets(7001, {"host2"}, vip=SECOND)
    cluster.await_targets(7002, {"host3"}, vip=SECOND)
    connection = cluster.client.connect(SECOND, 7001)

    define(cluster, "set", SECOND, "--ports", "any")
    cluster.await_targets(7001, set(), vip=SECOND)
    cluster.await_targets(7002, {"host3"}, vip=SECOND)
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(SECOND, 7000)
    assert connection.say("established") == "established"

    define(cluster, "set", SECOND, "--ports", "7000/tcp")
    cluster.await_targets(7000, {"host2"}, vip=SECOND)
    cluster.await_targets(7002, set(), vip=SECOND)
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(SECOND, 7002)


def test_deleted(cluster: LabCluster) -> None:
    define(cluster, "add", SECOND)
    cluster["host2"].listen(SECOND, 7000)
    cluster["host2"].listen(VIP, 80)
    cluster.await_targets(7000, {"host2"}, vip=SECOND)

    define(cluster, "delete", SECOND, "--yes")
    for host in HOSTS:
        eventually(
            lambda host=host: not cluster.has_on_lo(host, SECOND),  # type: ignore[misc]
            f"the VIP to go from lo of {host}",
        )
    eventually(lambda: not cluster.listeners(vip=SECOND), "its listeners to go")
    cluster.await_targets(80, {"host2"})  # the other VIP's goes on
    assert cluster.client.fetch(VIP, 80, 1) == ["host2"]

    define(cluster, "add", SECOND)
    cluster.await_targets(7000, {"host2"}, vip=SECOND)
    assert cluster.client.fetch(SECOND, 7000, 1) == ["host2"]


def test_the_same_port_on_two_vips(cluster: LabCluster) -> None:
    """Enumerated on one, by listener on the other: neither takes the other's (IBM PI08005)."""
    define(cluster, "add", SECOND)
    eventually(lambda: cluster.has_on_lo("host2", SECOND), "the VIP to be on host2")
    cluster["host2"].listen(SECOND, 80, reuse_port=True)
    cluster["host3"].listen("0.0.0.0", 80)
    cluster.await_targets(80, {"host2"}, vip=SECOND)
    cluster.await_targets(80, {"host3"})
    assert cluster.client.fetch(SECOND, 80, 1) == ["host2"]
    assert cluster.client.fetch(VIP, 80, 1) == ["host3"]
    define(cluster, "delete", SECOND, "--yes")
    cluster.await_targets(80, {"host3"})
    assert cluster.client.fetch(VIP, 80, 1) == ["host3"]


def test_hosts_that_a_definition_leaves_out(cluster: LabCluster) -> None:
    define(cluster, "add", SECOND, "--ports", "7000", "--hosts", "host2,host3")
    for host in HOSTS:
        cluster[host].listen("0.0.0.0", 7000)
    cluster.await_targets(7000, {"host2", "host3"}, vip=SECOND)
    assert not cluster.has_on_lo("host1", SECOND)
    assert cluster.distributor(SECOND) in ("host2", "host3")
    assert set(cluster.client.fetch(SECOND, 7000, 20)) == {"host2", "host3"}
    assert block_owners(cluster, SECOND) <= {"host2", "host3"}

    define(cluster, "set", SECOND, "--hosts", "host1")
    cluster.await_targets(7000, {"host1"}, vip=SECOND)
    assert cluster.distributor(SECOND) == "host1"
    # Its connections live on; it goes with the definition.
    assert cluster.has_on_lo("host2", SECOND)
    assert cluster.client.fetch(SECOND, 7000, 3) == ["host1"] * 3

    define(cluster, "set", SECOND, "--hosts", "all")
    cluster.await_targets(7000, set(HOSTS), vip=SECOND)


def test_a_deleted_vip_s_blocks_are_given_back(cluster: LabCluster) -> None:
    define(cluster, "add", SECOND)
    cluster.await_ready()
    cluster["host2"].listen(SECOND).close()
    define(cluster, "delete", SECOND, "--yes")
    eventually(lambda: not block_owners(cluster, SECOND), "no block of the deleted VIP")


def test_a_host_left_out_gives_its_blocks_back_when_its_sockets_are_closed(
    cluster: LabCluster,
) -> None:
    define(cluster, "add", THIRD)
    cluster.await_ready()
    opened = cluster["host2"].listen(THIRD)
    cluster.await_targets(opened.port, {"host2"}, vip=THIRD)
    define(cluster, "set", THIRD, "--hosts", "host1,host3")
    cluster.await_targets(opened.port, set(), vip=THIRD)
    assert "host2" in block_owners(cluster, THIRD)
    opened.close()
    eventually(lambda: block_owners(cluster, THIRD) == {"host1", "host3"}, "its blocks to go")


def test_an_operator_may_come_to_enumerate_a_port_of_a_block(cluster: LabCluster) -> None:
    """The port is everybody's from then on; whoever had it goes on, as one of its targets."""
    define(cluster, "add", THIRD)
    cluster.await_ready()
    opened = cluster["host2"].listen(THIRD)
    cluster.await_targets(opened.port, {"host2"}, vip=THIRD)
    define(cluster, "set", THIRD, "--ports", f"{opened.port}/tcp")
    cluster["host3"].listen(THIRD, opened.port)
    cluster.await_targets(opened.port, {"host2", "host3"}, vip=THIRD)
    assert set(cluster.client.fetch(THIRD, opened.port, 20)) == {"host2", "host3"}
