# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from anyport.decide.definitions import acceptable, validate
from anyport.decide.rows import MAX_VIPS
from anyport.errors import UsageError
from anyport.model import Definition, Host, PortSet

VIP = ip_address("192.0.2.10")
VIP6 = ip_address("2001:db8::10")
KNOWN = {
    "a": Host("a", IPv4Address("192.0.2.1")),
    "b": Host("b", IPv4Address("192.0.2.2"), address6=IPv6Address("2001:db8::1")),
}

SCATTERED = PortSet.of(tcp=[(port, port) for port in range(1, 20_000, 2)])


def many(count: int) -> list[Definition]:
    return [Definition(IPv4Address(f"198.51.100.{n}")) for n in range(1, count + 1)]


def test_good_ones() -> None:
    validate(Definition(VIP), [], {})
    validate(Definition(VIP, PortSet.parse("80"), hosts=frozenset("ab")), many(3), KNOWN)
    validate(Definition(VIP), many(MAX_VIPS - 1), KNOWN)
    validate(Definition(VIP6), many(3), KNOWN)


@pytest.mark.parametrize(
    ("definition", "others", "word"),
    [
        (Definition(VIP), [Definition(VIP, PortSet.parse("80"))], "vip set"),
        (Definition(VIP), many(MAX_VIPS), "16 VIPs at most"),
        (Definition(VIP, hosts=frozenset({"a", "x"})), [], "unknown host x; known are: a, b"),
        (Definition(VIP, hosts=frozenset()), [], "give `all`"),
        (Definition(VIP, PortSet()), [], "give `any`"),
        (Definition(ip_address("192.0.2.1")), [], "address of host a"),
        (Definition(ip_address("0.0.0.0")), [], "unspecified"),
        (Definition(ip_address("127.0.0.2")), [], "loopback"),
        (Definition(ip_address("224.0.0.1")), [], "multicast"),
        (Definition(ip_address("255.255.255.255")), [], "broadcast"),
        (Definition(ip_address("169.254.1.1")), [], "link-local"),
        (Definition(VIP, SCATTERED), [], "allowed are 32768; join"),
        (Definition(ip_address("2001:db8::1")), [], "address of host b"),
        (Definition(ip_address("::")), [], "unspecified"),
        (Definition(ip_address("::1")), [], "loopback"),
        (Definition(ip_address("fe80::7")), [], "link-local"),
        (Definition(ip_address("ff02::7")), [], "multicast"),
        (Definition(ip_address("::ffff:192.0.2.7")), [], "give 192.0.2.7"),
    ],
)
def test_refused_in_one_line_that_says_what_is_allowed(
    definition: Definition, others: list[Definition], word: str
) -> None:
    with pytest.raises(UsageError) as refused:
        validate(definition, others, KNOWN)
    assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_acceptable_one_is_accepted_whatever_hosts_it_names() -> None:
    definition = Definition(VIP, PortSet.parse("80"), hosts=frozenset({"a", "x"}))
    assert acceptable([definition], KNOWN) == ({VIP: definition}, {})
    assert acceptable([], {}) == ({}, {})


@pytest.mark.parametrize(
    ("definition", "word"),
    [
        (Definition(ip_address("127.0.0.1")), "loopback"),
        (Definition(ip_address("224.0.0.1")), "multicast"),
        (Definition(ip_address("::ffff:192.0.2.7")), "give 192.0.2.7"),
        (Definition(ip_address("2001:db8::1")), "address of host b"),
        (Definition(ip_address("192.0.2.2")), "address of host b"),
        (Definition(ip_address("192.0.2.11"), SCATTERED), "allowed are 32768"),
    ],
)
def test_what_the_registry_should_not_hold_is_left_out_and_named(
    definition: Definition, word: str
) -> None:
    accepted, problems = acceptable([definition, Definition(VIP)], KNOWN)
    assert accepted == {VIP: Definition(VIP)}
    assert problems.keys() == {definition.vip}
    assert word in problems[definition.vip]
    assert "\n" not in problems[definition.vip]


def test_of_too_many_the_lowest_addresses_are_taken_whatever_the_order() -> None:
    definitions = many(MAX_VIPS + 2)
    loopback = Definition(ip_address("127.0.0.1"))  # takes nobody's place
    accepted, problems = acceptable([*reversed(definitions), loopback], {})
    assert list(accepted.values()) == definitions[:MAX_VIPS]
    assert problems.keys() == {loopback.vip, *(d.vip for d in definitions[MAX_VIPS:])}
