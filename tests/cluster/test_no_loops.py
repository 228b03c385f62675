# SPDX-License-Identifier: Apache-2.0
"""A packet takes one hop, from one distributor, also while another believes to be it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster
from tests.support.packets import ACK, SYN, ethernet, ipv4, tcp

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
MARK = 0x88B5  # an ethertype for experiments (IEEE 802)


@pytest.fixture
def cluster() -> Iterator[LabCluster]:
    """Leases end soon after their daemons."""
    with lab_cluster("loops", len(HOSTS), settings={"registry": {"ttl": 2}}) as cluster:
        yield cluster


@contextmanager
def frozen(cluster: LabCluster, host: str) -> Iterator[str]:
    """Its daemon does nothing till the end, and another distributes: which."""
    pid = cluster.lab.daemon_pid(host)
    assert pid is not None
    witness = cluster.lab.client(next(other for other in HOSTS if other != host))
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: witness.vip(VIP)["distributor"] not in (host, None), "a takeover")
        yield str(witness.vip(VIP)["distributor"])
    finally:
        os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class ToVip:
    """A TCP segment to the VIP on the wire."""

    sender: bytes
    ttl: int
    client_port: int


class Tap:
    """What a node's interface receives."""

    def __init__(self, cluster: LabCluster, node: str) -> None:
        self._cluster = cluster
        self._program = cluster.extra(node)
        self._mac, self._marks = cluster.mac(node), 0
        [self._wire] = self._program.do("wire", interface="eth0")

    def segments(self) -> list[ToVip]:
        """Those that came since; none is under way any more, as the mark has overtaken none."""
        self._marks += 1
        mark = ethernet(self._mac, self._cluster.mac("client"), MARK, bytes([self._marks]) * 46)
        send(self._cluster, "client", mark)
        found: list[ToVip] = []
        while True:
            frame = bytes.fromhex(self._program.do("frame", number=self._wire))
            if frame == mark:
                return found
            if frame[12:14] == b"\x08\x00" and frame[23] == 6 and frame[30:34] == PACKED:
                found.append(ToVip(frame[6:12], frame[22], int.from_bytes(frame[34:36])))


PACKED = IPv4Address(VIP).packed


def send(cluster: LabCluster, node: str, frame: bytes) -> None:
    [wire] = cluster[node].do("wire_out", interface="eth0")
    cluster[node].do("send", number=wire, frame=frame.hex())
    cluster[node].do("close", number=wire)


def segment(cluster: LabCluster, port: int, flags: int) -> bytes:
    return ipv4(IPv4Address(cluster.address("client")), IPv4Address(VIP), 6, tcp(port, 80, flags))


def test_a_distributor_that_was_replaced_sends_nothing_on(cluster: LabCluster) -> None:
    """Not what clients still send to it, nor what the new one, or another target, does."""
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    old = cluster.distributor()
    known = [cluster.client.connect(VIP, 80) for _ in range(20)]
    with frozen(cluster, old) as new:
        taps = {host: Tap(cluster, host) for host in HOSTS if host != old}
        senders = ["client", *taps]
        for sender in senders:
            ends = cluster.mac(old), cluster.mac(sender)
            for number in range(20):
                syn = segment(cluster, 40000 + number, SYN)
                ack = segment(cluster, known[number].port, ACK)
                send(cluster, sender, ethernet(*ends, 0x0800, syn))
                send(cluster, sender, ethernet(*ends, 0x0800, ack))
        assert [tap.segments() for tap in taps.values()] == [[], []]

        eventually(
            lambda: {row["host"] for row in cluster.noun("listeners", new)} == set(taps),
            "the old one to be no target",
        )
        cluster.noun("status", new)  # one more round of its loop
        assert set(cluster.client.fetch(VIP, 80, 20)) == set(taps)
        [third] = set(taps) - {new}
        sent_on = taps[third].segments()
        assert {(s.sender, s.ttl) for s in sent_on} == {(cluster.mac(new), 63)}
    eventually(lambda: cluster.lab.client(old).vip(VIP)["distributor"] == new, "it to notice")
    assert cluster.packets(old, "drop_fenced") >= 40
    assert cluster.packets(old, "distributed") >= 80
