# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from anyport.distributor.peers import peers
from anyport.model import ANY, Definition, Host
from anyport.model.definition import Address

VIP, VIP6 = IPv4Address("192.0.2.80"), IPv6Address("2001:db8::80")
V4, V6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
BOTH, FOUR, OUTSIDE = (bytes([2, 0, 0, 0, 0, i]) for i in range(3))
HOSTS = [
    Host("both", V4, address6=V6, mac=BOTH),
    Host("four", V4, mac=FOUR),
    Host("outside", V4, mac=OUTSIDE),
    Host("silent", V4),
]
DEFINITIONS: dict[Address, Definition] = {
    VIP: Definition(VIP, ANY, hosts=frozenset({"both", "four", "silent"})),
    VIP6: Definition(VIP6, ANY),
}


def test_hosts_that_have_the_vip() -> None:
    """Not those that are left out, that have no address of its family, or do not tell a MAC."""
    rows: dict[Address, int] = {VIP: 3, VIP6: 5}
    assert peers(HOSTS, DEFINITIONS, rows) == {BOTH: {3, 5}, FOUR: {3}}


def test_vips_that_are_distributed_here() -> None:
    assert peers(HOSTS, DEFINITIONS, {VIP6: 5}) == {BOTH: {5}}
    assert peers(HOSTS, {}, {VIP: 3}) == {}
