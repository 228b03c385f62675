# SPDX-License-Identifier: Apache-2.0
"""65,535 ports of one VIP with listeners at once: all in the port table, reachable, and gone."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from anyport.lab import Lab
from anyport.model import Definition, PortSet, Protocol
from tests.support.live_cluster import LiveCluster, Refused, Routes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VIP = ip_address("10.77.0.200")
FIRST, LAST = 1, 65535
SPARE_FILES = 100  # descriptors of a program that are no listeners
SAMPLE = [1, 22, 1023, 1024, 32768, 40000, 60999, 61000, 65534, 65535]
LISTENING = "host2"
MINUTES = 240.0  # as above


@pytest.fixture
def cluster() -> Iterator[LiveCluster]:
    """Leases last, as this is no test of how fast the machine is."""
    cluster = LiveCluster(Lab(f"m{os.getpid()}"), {"registry": {"ttl": 60}})
    cluster.up(2)
    yield cluster
    cluster.down()


def ranges() -> list[tuple[int, int]]:
    """As many ports each as one program may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES
    return [(first, min(first + most - 1, LAST)) for first in range(FIRST, LAST + 1, most)]


def test_every_port_of_a_vip_at_once(cluster: LiveCluster) -> None:
    """Enumerated, as no block holds any of those: all 65,535 can be bound by number."""
    cluster.define(Definition(VIP, PortSet.parse(f"{FIRST}-{LAST}/tcp")))
    cluster.eventually(lambda: cluster.hosts(LISTENING, VIP), "the VIP to be on the host")
    programs = [cluster.program(LISTENING) for _ in ranges()]
    for program, (first, last) in zip(programs, ranges(), strict=True):
        where = {"first": first, "last": last, "address": str(VIP), "protocol": "tcp"}
        assert program.ask("open_range", **where) == []
    everything = [(Protocol.TCP, port) for port in range(FIRST, LAST + 1)]
    settles(cluster, dict.fromkeys(everything, ("distributed", frozenset({LISTENING}))))
    client = cluster.program("client")
    for port in SAMPLE:
        client.ask("connect", address=str(VIP), port=port)
    for program in programs:
        program.ask("close_all")
    settles(cluster, {})
    with pytest.raises(Refused, match="ECONNREFUSED"):
        client.ask("connect", address=str(VIP), port=SAMPLE[0])


def settles(cluster: LiveCluster, routes: Routes) -> None:
    """The distributor's packet program has these and no others, and it shows them."""
    cluster.eventually(lambda: cluster.distributor(VIP) is not None, "one distributor")
    distributor = cluster.distributor(VIP)
    assert distributor is not None
    cluster.eventually(
        lambda: cluster.programmed(VIP, distributor) == routes, f"{len(routes)} routes", MINUTES
    )
    assert cluster.table(VIP, distributor[0]) == routes
