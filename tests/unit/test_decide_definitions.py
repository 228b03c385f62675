# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from anyport.decide.definitions import validate
from anyport.decide.rows import MAX_VIPS
from anyport.errors import UsageError
from anyport.model import Definition, Host, PortSet

VIP = ip_address("192.0.2.10")
KNOWN = {n: Host(n, IPv4Address(f"192.0.2.{i}")) for i, n in enumerate(["a", "b"], 1)}


def many(count: int) -> list[Definition]:
    return [Definition(IPv4Address(f"198.51.100.{n}")) for n in range(1, count + 1)]


def test_good_ones() -> None:
    validate(Definition(VIP), [], {})
    validate(Definition(VIP, PortSet.parse("80"), hosts=frozenset("ab")), many(3), KNOWN)
    validate(Definition(VIP), many(MAX_VIPS - 1), KNOWN)


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
        (Definition(ip_address("2001:db8::1")), [], "IPv4"),
    ],
)
def test_refused_in_one_line_that_says_what_is_allowed(
    definition: Definition, others: list[Definition], word: str
) -> None:
    with pytest.raises(UsageError) as refused:
        validate(definition, others, KNOWN)
    assert word in str(refused.value)
    assert "\n" not in str(refused.value)
