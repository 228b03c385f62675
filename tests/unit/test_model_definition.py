# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyport.model import ANY, Definition, PortSet, Protocol
from anyport.model.definition import iterate, parse_ports

VIP = IPv4Address("192.0.2.10")
port_ranges = st.lists(
    st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda r: (min(r), max(r))),
    max_size=6,
)


@pytest.mark.parametrize(
    ("text", "tcp", "udp"),
    [
        ("80", ((80, 80),), ((80, 80),)),
        ("80/tcp", ((80, 80),), ()),
        ("53/udp,53/tcp", ((53, 53),), ((53, 53),)),
        ("8000-8100/tcp, 443/tcp", ((443, 443), (8000, 8100)), ()),
        ("80-90/tcp,85-95/tcp,96/tcp", ((80, 96),), ()),
        ("1-65535", ((1, 65535),), ((1, 65535),)),
    ],
)
def test_parse(text: str, tcp: object, udp: object) -> None:
    assert PortSet.parse(text) == PortSet(tcp, udp)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "allowed are"),
        ("0", "1-65535"),
        ("65536", "1-65535"),
        ("http", "allowed are"),
        ("80/sctp", "tcp and udp"),
        ("90-80", "did you mean 80-90"),
        ("80-", "allowed are"),
        ("80,,81", "allowed are"),
        ("٨٠", "allowed are"),
        ("-1", "allowed are"),
    ],
)
def test_parse_refuses_with_what_is_allowed(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        PortSet.parse(text)


def test_any() -> None:
    assert parse_ports("any") is ANY
    assert str(ANY) == "any"
    assert not Definition(VIP).enumerated
    assert not Definition(VIP).enumerates(Protocol.TCP, 80)


@given(port_ranges, port_ranges)
@settings(max_examples=1000)
def test_text_and_back(tcp: list[tuple[int, int]], udp: list[tuple[int, int]]) -> None:
    ports = PortSet.of(tcp, udp)
    if ports != PortSet():
        assert PortSet.parse(str(ports)) == ports


@given(port_ranges, st.integers(1, 65535))
@settings(max_examples=1000)
def test_contains_is_membership(ranges: list[tuple[int, int]], port: int) -> None:
    ports = PortSet.of(tcp=ranges)
    near = {port, *(p + d for r in ranges for p in r for d in (-1, 0, 1))}
    for asked in near:
        inside = any(first <= asked <= last for first, last in ranges)
        assert ports.contains(Protocol.TCP, asked) == inside
        assert ports.overlaps(asked, asked) == inside
        assert not ports.contains(Protocol.UDP, asked)


@given(port_ranges)
def test_ranges_are_sorted_and_apart(ranges: list[tuple[int, int]]) -> None:
    merged = PortSet.of(udp=ranges).udp
    assert all(a[1] + 1 < b[0] for a, b in pairwise(merged))
    assert sum(1 for _ in iterate(merged)) == len({p for r in ranges for p in iterate([r])})


def test_hosts() -> None:
    assert Definition(VIP).allows("a")
    assert Definition(VIP, hosts=frozenset({"a"})).allows("a")
    assert not Definition(VIP, hosts=frozenset({"a"})).allows("b")
