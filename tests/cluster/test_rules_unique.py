# SPDX-License-Identifier: Apache-2.0
"""R7: bind(VIP, 0), blocks of ports, and what defends them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from tests.support.lab_cluster import VIP, LabCluster, Opened, Program, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
ENUMERATED = "10.77.0.81"
FEW = {"size": 8, "largest": 8, "low_water": 2, "first": 40000, "last": 40031, "rest": 0}


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    with lab_cluster("unique") as cluster:
        cluster.lab.client("host1").add_vip(ENUMERATED, ports="80/tcp")
        cluster.await_ready()
        yield cluster


@pytest.fixture
def cluster(lab: LabCluster) -> Iterator[LabCluster]:
    yield lab
    lab.reset()


@pytest.fixture
def small() -> Iterator[LabCluster]:
    """32 ports for three hosts."""
    with lab_cluster("few", 3, settings={"blocks": FEW}) as cluster:
        yield cluster


def in_blocks_of(cluster: LabCluster, host: str, vip: str, port: int) -> bool:
    return any(
        row["first"] <= port <= row["last"]
        for row in cluster.noun("blocks")
        if (row["host"], row["vip"]) == (host, vip)
    )


def free_ports(cluster: LabCluster, host: str) -> int:
    [row] = [row for row in cluster.noun("status", host)["vips"] if row["vip"] == VIP]
    return int(row["free_ports"])


@pytest.mark.parametrize("vip", [VIP, ENUMERATED])
def test_it_is_reached_before_anybody_is_told(cluster: LabCluster, vip: str) -> None:
    """No daemon runs while the port is handed out and called: its block was routed beforehand."""
    owner = next(host for host in HOSTS if host != cluster.distributor(vip))
    with cluster.stopped(*HOSTS):
        opened = cluster[owner].listen(vip)
        assert cluster.client.fetch(vip, opened.port, 3) == [owner] * 3
    assert in_blocks_of(cluster, owner, vip, opened.port)


@pytest.mark.parametrize("vip", [VIP, ENUMERATED])
def test_it_is_unique_in_the_cluster_and_goes_to_its_owner(cluster: LabCluster, vip: str) -> None:
    opened = [(host, cluster[host].listen(vip)) for host in HOSTS for _ in range(20)]
    assert len({made.port for _, made in opened}) == len(opened)
    for host, made in opened:
        assert in_blocks_of(cluster, host, vip, made.port)
        assert cluster.client.fetch(vip, made.port, 1) == [host]
    eventually(lambda: len(cluster.noun("ports", vip=vip)) == 60, "all notified")
    shown = {
        (row["port"], row["route"], tuple(t["host"] for t in row["targets"]))
        for row in cluster.noun("ports", vip=vip)
    }
    assert shown == {(made.port, "unique", (host,)) for host, made in opened}


def test_udp_is_served_from_blocks_too(cluster: LabCluster) -> None:
    opened = {host: cluster[host].bind_udp(VIP) for host in HOSTS}
    for host, made in opened.items():
        assert in_blocks_of(cluster, host, VIP, made.port)
        assert cluster.client.ask_udp(VIP, made.port, 3) == [host] * 3


@pytest.mark.parametrize("host", HOSTS)
def test_nobody_binds_explicitly_within_a_block(cluster: LabCluster, host: str) -> None:
    """Not the owner either: what the allocator hands out would not be unique any more."""
    port = cluster["host2"].listen(VIP).port
    for taken in (port, port + 1 if in_blocks_of(cluster, "host2", VIP, port + 1) else port - 1):
        with pytest.raises(OSError, match="in use") as refused:
            cluster[host].listen(VIP, taken, reuse_address=True, reuse_port=True)
        assert refused.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="in use"):
            cluster[host].bind_udp(VIP, taken)


def test_a_port_of_a_block_without_a_listener_is_refused(cluster: LabCluster) -> None:
    opened = cluster["host2"].listen(VIP)
    cluster.await_targets(opened.port, {"host2"})
    opened.close()
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, opened.port)
    with pytest.raises(ConnectionRefusedError):
        cluster.client.ask_udp(VIP, opened.port)


def test_its_connections_go_on_after_the_listener_closed(cluster: LabCluster) -> None:
    """As passive FTP does: one connection, and the listener is gone. The port rests."""
    opened = cluster["host3"].listen(VIP)
    connection = cluster.client.connect(VIP, opened.port)
    opened.close()
    cluster.await_targets(opened.port, set())
    assert connection.say("data") == "data"
    again = {cluster["host3"].listen(VIP).port for _ in range(20)}
    assert opened.port not in again
    assert connection.say("more") == "more"


def test_more_blocks_are_claimed_before_the_last_is_used_up(cluster: LabCluster) -> None:
    """400 ports where a block has 128; a program that does not rush never meets EADDRINUSE."""
    ports = set()
    for _ in range(20):
        eventually(lambda: free_ports(cluster, "host2") >= 20, "more ports")
        ports |= {cluster["host2"].listen(VIP).port for _ in range(20)}
    assert len(ports) == 400
    owned = [r for r in cluster.noun("blocks") if (r["vip"], r["host"]) == (VIP, "host2")]
    assert len(owned) > 1
    assert sum(row["last"] - row["first"] + 1 for row in owned) >= 400


def listened(program: Program) -> Opened | None:
    """None: EADDRINUSE."""
    try:
        return program.listen(VIP)
    except OSError as refused:
        if refused.errno != errno.EADDRINUSE:
            raise
    return None


def test_when_nothing_is_left_the_program_gets_eaddrinuse_and_the_log_says_why(
    small: LabCluster,
) -> None:
    """Nothing of another host's; and a port comes back when its socket is closed."""

    def claimed(*hosts: str) -> int:
        rows = [row for row in small.noun("blocks") if row["host"] in hosts]
        return sum(row["last"] - row["first"] + 1 for row in rows)

    opened: list[Opened] = []
    while claimed(*HOSTS) < 32 or len(opened) < claimed("host2"):  # its last may not be routed yet
        opened += filter(None, [listened(small["host2"])])
    assert listened(small["host2"]) is None
    assert len(opened) == len({made.port for made in opened}) == 16  # 8 each are the others'
    log = small.log("host2")
    assert log.count("no room for another port block") <= 1
    assert log.count("found no free port") + log.count("no room") >= 1
    assert small["host3"].listen(VIP).port not in {made.port for made in opened}
    opened[0].close()
    eventually(lambda: free_ports(small, "host2") == 1, "the port to come back")
    assert small["host2"].listen(VIP).port == opened[0].port


def test_a_block_that_comes_to_be_enumerated_is_handed_out_of_no_more(small: LabCluster) -> None:
    """At once, though one of its ports is in use, so that its host has it still: what is given
    back must be in nobody's hands any more."""
    host = next(h for h in HOSTS if h != small.distributor())
    opened = small[host].listen(VIP)
    [block] = [
        range(row["first"], row["last"] + 1)
        for row in small.noun("blocks", host)
        if row["host"] == host and opened.port in range(row["first"], row["last"] + 1)
    ]
    enumerated = next(port for port in block if port != opened.port)
    done = small.anyport("host1", "vip", "set", VIP, "--ports", f"{enumerated}/tcp")
    assert done.returncode == 0, done.stderr
    wildcard = small[host].listen("0.0.0.0", enumerated)
    small.await_targets(enumerated, {host})  # so the definition holds there
    wildcard.close()
    given = listened(small[host])
    assert given is None or given.port not in block
    assert any(row["first"] == block.start for row in small.noun("blocks", host))
    opened.close()
    eventually(
        lambda: not any(row["first"] == block.start for row in small.noun("blocks", host)),
        "the block to be given back",
    )
