# SPDX-License-Identifier: Apache-2.0
"""Far more SYNs than the connection table has room for: what is established stays."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from tests.support.lab_cluster import VIP, LabCluster, Opened, lab_cluster
from tests.support.packets import SYN, checksum, ethernet, ipv4

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2")
TURNS = "10.77.0.81"
ROOM = 1024
STRANGERS = IPv4Address("198.18.0.0")
SYNS = 150_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[LabCluster]:
    with lab_cluster("flood", len(HOSTS), settings={"tables": {"connections": ROOM}}) as cluster:
        cluster.lab.client("host1").add_vip(TURNS, method="round-robin")
        cluster.await_ready()
        for host in HOSTS:  # so that they answer, and remember whom
            via = cluster.address("client")
            cluster.run(host, "ip", "route", "add", f"{STRANGERS}/16", "via", via)
        yield cluster


@contextmanager
def flood(cluster: LabCluster, vip: str, port: int) -> Iterator[None]:
    """SYNs from as many clients; all are through when the block has ended."""
    packet = ipv4(STRANGERS, IPv4Address(vip), 6, syn(vip, port), identification=0)
    frame = ethernet(cluster.mac(cluster.distributor(vip)), cluster.mac("client"), 0x0800, packet)
    flooder = cluster.extra("client")
    [wire] = flooder.do("wire_out", interface="eth0")
    flooder.begin("flood", number=wire, frame=frame.hex(), count=SYNS)
    yield
    flooder.end("flood")


def syn(vip: str, port: int) -> bytes:
    """With a checksum that is right once the flooder has filled in what it varies."""
    blank = struct.pack("!HHIIBBHHH", 0, port, 0, 0, 5 << 4, SYN, 0, 0, 0)
    pseudo = STRANGERS.packed + IPv4Address(vip).packed + struct.pack("!HH", 6, len(blank))
    return blank[:16] + struct.pack("!H", checksum(pseudo + blank)) + blank[18:]


def opened_at(cluster: LabCluster, vip: str) -> float:
    """How many SYNs the VIP's distributor has seen."""
    distributor = cluster.distributor(vip)
    return sum(cluster.packets(distributor, reason) for reason in ("selected", "table_full"))


@pytest.mark.parametrize("vip", [VIP, TURNS])
def test_established_connections_go_on(cluster: LabCluster, vip: str) -> None:
    """Every byte of them is right, also of half-closed ones; and new ones get through."""
    port = 80 if vip == VIP else 81
    for host in HOSTS:
        cluster[host].listen(vip, port)
    listeners = {host: cluster[host].listen(vip, port + 10, quiet=True) for host in HOSTS}
    cluster.await_targets(port + 10, set(HOSTS), vip=vip)
    connections = [cluster.client.connect(vip, port) for _ in range(40)]
    assert {c.greeting for c in connections} == set(HOSTS)
    waiting = half_closed(cluster, vip, listeners)
    before = opened_at(cluster, vip)
    with flood(cluster, vip, port):
        for part in range(1, 6):
            while opened_at(cluster, vip) < before + SYNS / 10 * part:
                for connection in connections:
                    assert connection.say("every byte of it") == "every byte of it"
            assert set(cluster.client.fetch(vip, port, 20)) == set(HOSTS)
    for near, far in waiting:
        far.write("at last")
        far.close()
        assert near.read(100) == "at last"
    assert set(cluster.client.fetch(vip, port, 20)) == set(HOSTS)
    assert any(cookies(cluster, host) for host in HOSTS)


def cookies(cluster: LabCluster, host: str) -> int:
    """How many SYNs its kernel answered without remembering them: a flood that it felt."""
    names, values, *_ = cluster.run(host, "cat", "/proc/net/netstat").splitlines()
    return int(dict(zip(names.split(), values.split(), strict=True))["SyncookiesSent"])


def half_closed(
    cluster: LabCluster, vip: str, listeners: dict[str, Opened]
) -> list[tuple[Opened, Opened]]:
    """By both hosts: the client has sent all that it wanted to, and waits for the answer."""
    port = next(iter(listeners.values())).port
    near = {c.port: c for c in (cluster.client.connect_quietly(vip, port) for _ in range(8))}
    for connection in near.values():
        connection.finish()
    served = cluster.noun("connections", cluster.distributor(vip), vip=vip)
    hosts = [row["host"] for row in served if row["port"] == port]
    return [(near[far.port], far) for far in (listeners[host].accept() for host in hosts)]
