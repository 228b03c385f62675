# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from anyport.decide.rows import NO_HOP, Hop, HostRow, Path
from anyport.distributor.hops import host_rows
from anyport.model import Host

V4, V6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
HOSTS = {
    "both": Host("both", V4, address6=V6),
    "four": Host("four", V4, weight=7),
    "six": Host("six", V6),
}


def test_each_family_goes_to_the_hosts_address_of_that_family() -> None:
    assert host_rows(HOSTS, here="", interface_index=3) == {
        "both": HostRow(Hop(V4, Path.L2, 3), Hop(V6, Path.L2, 3), 100),
        "four": HostRow(Hop(V4, Path.L2, 3), NO_HOP, 7),
        "six": HostRow(NO_HOP, Hop(V6, Path.L2, 3), 100),
    }


def test_this_host_is_reached_without_an_address() -> None:
    row = host_rows(HOSTS, here="four", interface_index=3)["four"]
    assert row == HostRow(Hop(V4, Path.LOCAL), Hop(None, Path.LOCAL), 7)
    assert row.addresses == {V4}
