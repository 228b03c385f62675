# SPDX-License-Identifier: Apache-2.0
"""IPv6 headers (RFC 8200) as they are and as they must not be; what both families share is in
test_verdicts."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from anyport.decide.rows import Hop, HostRow, Path
from tests.packet import world as w
from tests.packet.cases import OTHER_MAC, Case, check, dropped, fence, on, same
from tests.packet.world import CLIENT6, DROPPED, VIP, VIP6, World
from tests.support.packets import BROADCAST, ipv6, tcp, udp, vlan

SYN_TO_SHARED = tcp(5000, w.SHARED)
UDP_TO_SHARED = udp(5000, w.SHARED, b"question")
IPV4_HOP = Hop(IPv4Address("10.0.0.2"), Path.L2, 1)
ELSEWHERE = IPv6Address("fd00::1:101")


def mapped(address: object) -> IPv6Address:
    return IPv6Address(f"::ffff:{address}")


def to_vip(protocol: int, payload: bytes, **fields: int) -> bytes:
    return w.ip6_frame(ipv6(CLIENT6, VIP6, protocol, payload, **fields))  # type: ignore[arg-type]


NOT_OURS = [
    same("another address", w.ip6_frame(ipv6(CLIENT6, ELSEWHERE, 6, SYN_TO_SHARED)), "not_ours"),
    same("from the VIP", w.ip6_frame(ipv6(VIP6, CLIENT6, 6, SYN_TO_SHARED)), "not_ours"),
    same(
        "to an IPv4 VIP, mapped",
        w.ip6_frame(ipv6(CLIENT6, mapped(VIP), 6, SYN_TO_SHARED)),
        "not_ours",
    ),
    same("in a VLAN", vlan(w.segment(w.SHARED, vip=VIP6)), "not_ours"),
    same(
        "to another's MAC",
        w.ip6_frame(ipv6(CLIENT6, VIP6, 6, SYN_TO_SHARED), OTHER_MAC),
        "not_ours",
    ),
    same("broadcast", w.ip6_frame(ipv6(CLIENT6, VIP6, 6, SYN_TO_SHARED), BROADCAST), "not_ours"),
]

MALFORMED = [
    dropped("version 4", to_vip(6, SYN_TO_SHARED, version=4)),
    dropped("version 0", to_vip(6, SYN_TO_SHARED, version=0)),
    dropped("payload length beyond the frame", to_vip(6, SYN_TO_SHARED, length=21)),
    dropped("payload length 65535", to_vip(6, SYN_TO_SHARED, length=65535)),
    dropped("payload length 0, and no jumbogram", to_vip(6, SYN_TO_SHARED, length=0)),
    dropped("no transport header", to_vip(6, b"")),
    dropped("half a TCP header", to_vip(6, SYN_TO_SHARED[:19])),
    dropped("TCP header beyond the payload length", to_vip(6, SYN_TO_SHARED, length=19)),
    dropped("TCP header of 4 words", to_vip(6, tcp(5000, w.SHARED, words=4))),
    dropped("TCP options beyond the packet", to_vip(6, tcp(5000, w.SHARED, words=6))),
    dropped("half a UDP header", to_vip(17, UDP_TO_SHARED[:7])),
    dropped("UDP length below its header's", to_vip(17, udp(5000, w.SHARED, b"x", 7))),
    dropped("UDP length beyond the packet", to_vip(17, udp(5000, w.SHARED, b"x", 10))),
    dropped("UDP without a length (a jumbogram)", to_vip(17, udp(5000, w.SHARED, b"x", 0))),
    dropped(
        "from an IPv4 address, mapped",
        w.ip6_frame(ipv6(mapped(w.CLIENT), VIP6, 6, SYN_TO_SHARED)),
    ),
    Case("malformed while fenced", to_vip(6, b""), "drop_fenced", DROPPED, setup=fence),
]

OTHER_PROTOCOLS = [
    same("SCTP", to_vip(132, bytes(12)), "other_protocol"),
    same("ESP", to_vip(50, bytes(12)), "other_protocol"),
    same("no next header", to_vip(59, b""), "other_protocol"),
    same("no next header, and bytes behind it", to_vip(59, SYN_TO_SHARED), "other_protocol"),
]

CASES = [
    *NOT_OURS,
    *MALFORMED,
    *OTHER_PROTOCOLS,
    Case(
        "to a host of which only an IPv4 address is known",
        w.segment(w.ONLY_A, vip=VIP6),
        "drop_no_path",
        DROPPED,
        setup=lambda world: world.kernel.set_host(w.A, HostRow(IPV4_HOP, IPV4_HOP, 100)),
    ),
    on("traffic class and flow label", to_vip(6, SYN_TO_SHARED, version=0x6FFFFFFF), "selected"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_verdict(shared_world: World, case: Case) -> None:
    check(shared_world, case)


@pytest.mark.parametrize("payload", [SYN_TO_SHARED, UDP_TO_SHARED], ids=["tcp", "udp"])
def test_cut_off_at_each_byte(world: World, payload: bytes) -> None:
    """Dropped as malformed, whether or not the payload length admits it."""
    protocol, needed = (6, 20) if payload is SYN_TO_SHARED else (17, 16)
    frame = to_vip(protocol, payload)
    for length in range(54, len(frame)):
        assert world.send(frame[:length]) == ["drop_malformed"], length
    for length in range(needed):
        admitted = to_vip(protocol, payload[:length])
        assert world.send(admitted) == ["drop_malformed"], length
