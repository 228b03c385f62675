# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from anyport.decide.paths import RouteTo, choose, overhead
from anyport.decide.rows import NO_HOP, Hop, Path
from anyport.model import Host, PathWish
from anyport.model.definition import Address

LAN, OTHER = 3, 4
V4, V6 = IPv4Address("192.0.2.7"), IPv6Address("2001:db8::7")
HERE4, HERE6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
GATEWAY = IPv4Address("192.0.2.254")
TARGET = Host("target", V4, address6=V6)
HERE = Host("here", HERE4, address6=HERE6)
ON_LAN = RouteTo(LAN, mtu=1500)
BEHIND = RouteTo(LAN, GATEWAY, mtu=1400)


def hop(
    version: int,
    routes: dict[Address, RouteTo],
    target: Host = TARGET,
    here: Host = HERE,
) -> Hop:
    return choose(version, target, here, routes, LAN).hop


def test_what_is_on_link_on_the_lan_is_reached_by_l2() -> None:
    routes: dict[Address, RouteTo] = {V4: ON_LAN, V6: ON_LAN}
    assert hop(4, routes) == Hop(V4, Path.L2, LAN)
    assert hop(6, routes) == Hop(V6, Path.L2, LAN)


@pytest.mark.parametrize("way", [BEHIND, RouteTo(OTHER, mtu=1400)])
def test_what_is_behind_a_gateway_or_another_interface_is_reached_by_ipip(way: RouteTo) -> None:
    routes: dict[Address, RouteTo] = {V4: way, V6: way}
    assert hop(4, routes) == Hop(V4, Path.IPIP, way.interface_index, HERE4, 1400)
    assert hop(6, routes) == Hop(V6, Path.IPIP, way.interface_index, HERE6, 1400)


def test_the_other_family_carries_what_its_own_cannot() -> None:
    assert hop(6, {V4: BEHIND}) == Hop(V4, Path.IPIP, LAN, HERE4, 1400)
    assert hop(4, {V6: BEHIND}) == Hop(V6, Path.IPIP, LAN, HERE6, 1400)
    assert hop(6, {V4: ON_LAN}) == Hop(V4, Path.L2, LAN)


def test_a_tunnel_needs_an_address_of_ours_to_begin_at() -> None:
    only_ipv4 = Host("here", HERE4)
    assert hop(6, {V6: BEHIND, V4: BEHIND}, here=only_ipv4).address == V4
    assert hop(6, {V6: BEHIND}, here=only_ipv4).path == Path.NONE


def test_without_a_route_the_host_is_known_by_its_address_still() -> None:
    chosen = choose(4, TARGET, HERE, {}, LAN)
    assert (chosen.hop, chosen.why) == (Hop(V4, Path.NONE), f"no route to {V4}")


def test_a_family_without_an_address_has_no_path() -> None:
    assert hop(6, {V4: ON_LAN}, target=Host("target", V4)) == NO_HOP


def test_the_wish_of_the_host_beats_the_route() -> None:
    l2, ipip = replace(TARGET, path=PathWish.L2), replace(TARGET, path=PathWish.IPIP)
    assert hop(4, {V4: BEHIND}, target=l2) == Hop(V4, Path.L2, LAN)
    assert hop(4, {}, target=l2) == Hop(V4, Path.L2, LAN)
    assert hop(4, {V4: ON_LAN}, target=ipip) == Hop(V4, Path.IPIP, LAN, HERE4, 1500)


def test_this_host_is_local_whatever_it_wishes() -> None:
    here = replace(HERE, path=PathWish.IPIP)
    assert hop(4, {}, target=here, here=here) == Hop(HERE4, Path.LOCAL)
    assert hop(6, {}, target=Host("here", HERE4), here=here) == Hop(None, Path.LOCAL)


@pytest.mark.parametrize(
    ("wish", "routes", "expected"),
    [
        (PathWish.AUTO, {V4: ON_LAN, V6: ON_LAN}, 0),
        (PathWish.AUTO, {V4: BEHIND, V6: ON_LAN}, 20),
        (PathWish.AUTO, {V4: BEHIND, V6: BEHIND}, 40),
        (PathWish.AUTO, {}, 0),
        (PathWish.L2, {V4: BEHIND, V6: BEHIND}, 0),
        (PathWish.IPIP, {V4: ON_LAN}, 20),
    ],
)
def test_the_overhead_is_that_of_the_longest_outer_header(
    wish: PathWish, routes: dict[Address, RouteTo], expected: int
) -> None:
    """`here` is the target here; what a distributor wishes for is how it is reached itself."""
    here = replace(HERE, path=wish)
    distributor = replace(TARGET, path=PathWish.IPIP)
    assert overhead(here, [distributor, here], routes, LAN) == expected
