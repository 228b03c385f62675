# SPDX-License-Identifier: Apache-2.0
"""Which claims a new distributor takes over: all are new to it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from anyport.distributor.office import Office
from anyport.model import (
    ANY,
    Claim,
    Cluster,
    Definition,
    Distributing,
    Host,
    Listener,
    PortBlock,
    PortKey,
    Ports,
    PortSet,
    Protocol,
    Unique,
)

VIP = ip_address("10.0.0.100")
BLOCK = PortBlock(VIP, 40000, 40127)
CLAIM = Claim(BLOCK, "owner", 12)
LISTENED: PortKey = (Protocol.TCP, 40001)
GIVEN: PortKey = (Protocol.TCP, 40010)


def judged(ports: Ports) -> Office:
    """`other` listens on a port within the block of `owner`."""
    definition = Definition(VIP, ports)
    hosts = {name: Host(name, ip_address("10.0.0.1")) for name in ("owner", "other")}
    listeners = {VIP: {LISTENED: {"other": Listener(VIP, *LISTENED, "other")}}}
    cluster = Cluster(99, {VIP: definition}, hosts, listeners, {("owner", BLOCK): CLAIM}, {}, {})
    office = Office.take(Distributing("new", 1, definition, 0), cluster)
    office.judge_claims(cluster, lambda: (), lambda host: None)
    routes = office.routes(cluster, [GIVEN])
    assert routes[GIVEN] == (None if office.refused else Unique("owner"))
    return office


@pytest.mark.parametrize(
    ("ports", "refused"),
    [(ANY, {12}), (PortSet.parse("40001"), set()), (PortSet.parse("80"), {12})],
)
def test_a_block_with_the_listener_of_another(ports: Ports, refused: set[int]) -> None:
    """It came between; but if its port has come to be enumerated, the block is there by right."""
    assert judged(ports).refused == refused
