# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from anyport.decide.paths import RouteTo
from anyport.decide.rows import NO_HOP, Hop, HostRow, Path
from anyport.distributor.hops import all_choices, host_rows, tell_changes
from anyport.model import Host
from anyport.model.definition import Address

V4, V6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
HOSTS = {
    "both": Host("both", V4, address6=V6),
    "four": Host("four", V4, weight=7),
    "six": Host("six", V6),
}
ROUTES: dict[Address, RouteTo] = {V4: RouteTo(3), V6: RouteTo(3)}
ELSEWHERE = Host("elsewhere", IPv4Address("192.0.2.9"))


def rows(here: Host) -> dict[str, HostRow]:
    return host_rows(HOSTS, all_choices(HOSTS, here, ROUTES, lan=3))


def test_each_family_goes_to_the_hosts_address_of_that_family() -> None:
    assert rows(ELSEWHERE) == {
        "both": HostRow(Hop(V4, Path.L2, 3), Hop(V6, Path.L2, 3), 100),
        "four": HostRow(Hop(V4, Path.L2, 3), NO_HOP, 7),
        "six": HostRow(NO_HOP, Hop(V6, Path.L2, 3), 100),
    }


def test_this_host_is_reached_without_an_address() -> None:
    row = rows(HOSTS["four"])["four"]
    assert row == HostRow(Hop(V4, Path.LOCAL), Hop(None, Path.LOCAL), 7)
    assert row.addresses == {V4}


def test_a_path_is_told_when_it_changes_and_only_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hosts = {"four": HOSTS["four"]}

    on_lan, behind = RouteTo(3, mtu=1500), RouteTo(3, IPv4Address("192.0.2.254"), 1500)
    steps = [on_lan, replace(on_lan, mtu=1400), behind, replace(behind, mtu=1300)]
    before = all_choices({}, ELSEWHERE, {}, lan=3)
    for route in steps:
        now = all_choices(hosts, ELSEWHERE, {V4: route}, lan=3)
        tell_changes(before, now)
        before = now
    assert [record.message for record in caplog.records if "IPv4" in record.message] == [
        "host four: IPv4 by l2 to 192.0.2.1: 192.0.2.1 is on-link on the LAN",
        "host four: IPv4 by ipip to 192.0.2.1: 192.0.2.1 is behind 192.0.2.254",
    ]
