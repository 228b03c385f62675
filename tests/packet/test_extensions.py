# SPDX-License-Identifier: Apache-2.0
"""IPv6 extension headers (RFC 8200 4): walked to the transport header, or passed; never misread."""

from __future__ import annotations

import pytest

from tests.packet import world as w
from tests.packet.cases import Case, check, dropped, on, same
from tests.packet.world import CLIENT6, VIP6, World
from tests.support.packets import (
    ATOMIC,
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ROUTING,
    chained,
    extension,
    ipv6,
    tcp,
    udp,
)

SYN_TO_SHARED = tcp(5000, w.SHARED)
UDP_TO_SHARED = udp(5000, w.SHARED, b"question")
ROUTER_ALERT = bytes.fromhex("050200000100")
PADDING = bytes.fromhex("010400000000")
ROUTED = bytes([0, 0, 0, 0, 0, 0])
TO_BE_ROUTED = bytes([0, 1, 0, 0, 0, 0]) + bytes(16)
AUTHENTICATION = 51


def frame(*headers: tuple[int, bytes], protocol: int = 6, payload: bytes = SYN_TO_SHARED) -> bytes:
    """`headers`: type and what the header has behind its length."""
    first, extensions = chained(headers, protocol)
    return w.ip6_frame(ipv6(CLIENT6, VIP6, protocol, payload, first=first, extensions=extensions))


def stated(first: int, raw: bytes) -> bytes:
    """With extension headers written out."""
    return w.ip6_frame(ipv6(CLIENT6, VIP6, 6, SYN_TO_SHARED, first=first, extensions=raw))


OPTIONS = (DESTINATION_OPTIONS, PADDING)


def jumbogram() -> bytes:
    """Its length is in an option: longer than any frame here is."""
    option = bytes.fromhex("c204") + (1 << 16).to_bytes(4)
    extensions = extension(6, option)
    packet = ipv6(
        CLIENT6, VIP6, 6, SYN_TO_SHARED, first=HOP_BY_HOP, extensions=extensions, length=0
    )
    return w.ip6_frame(packet)


CASES = [
    on("hop-by-hop options", frame((HOP_BY_HOP, ROUTER_ALERT)), "selected"),
    on("destination options", frame(OPTIONS), "selected"),
    on("destination options, UDP", frame(OPTIONS, protocol=17, payload=UDP_TO_SHARED), "selected"),
    on("a routing header that is done with", frame((ROUTING, ROUTED)), "selected"),
    on("16 bytes of options", frame((DESTINATION_OPTIONS, PADDING + bytes(8))), "selected"),
    on("24 bytes of options", frame((DESTINATION_OPTIONS, PADDING + bytes(16))), "selected"),
    on("1024 bytes of options", frame((DESTINATION_OPTIONS, PADDING + bytes(1016))), "selected"),
    on(
        "all kinds",
        frame((HOP_BY_HOP, ROUTER_ALERT), OPTIONS, (ROUTING, ROUTED), (FRAGMENT, ATOMIC), OPTIONS),
        "selected",
    ),
    on("an atomic fragment (RFC 6946)", frame((FRAGMENT, ATOMIC)), "selected"),
    on("eight headers", frame(*[OPTIONS] * 8), "selected"),
    dropped("nine headers", frame(*[OPTIONS] * 9), "drop_headers"),
    dropped("forty headers", frame(*[OPTIONS] * 40), "drop_headers"),
    same("no next header", frame(OPTIONS, protocol=59, payload=b""), "other_protocol"),
    same("segments left", frame((ROUTING, TO_BE_ROUTED)), "other_protocol"),
    same(
        "hop-by-hop options that are not first",
        frame(OPTIONS, (HOP_BY_HOP, PADDING)),
        "other_protocol",
    ),
    same("an authentication header", frame((AUTHENTICATION, bytes(22))), "other_protocol"),
    same("mobility", frame(OPTIONS, (135, PADDING)), "other_protocol"),
    same("SCTP behind options", frame(OPTIONS, protocol=132, payload=bytes(12)), "other_protocol"),
    same(
        "a neighbour solicitation behind options (RFC 6980)",
        frame(OPTIONS, protocol=58, payload=bytes([135]) + bytes(23)),
        "other_protocol",
    ),
    same("a shim that is unknown", frame(OPTIONS, (140, PADDING)), "other_protocol"),
    same("host identity", frame((139, PADDING)), "other_protocol"),
    same("an experiment", frame((253, PADDING)), "other_protocol"),
    dropped("a jumbogram (RFC 2675)", jumbogram()),
    dropped("half a header", stated(DESTINATION_OPTIONS, b"")[:60]),
    dropped("options beyond the packet", stated(DESTINATION_OPTIONS, bytes([6, 3]) + PADDING)),
    dropped("the longest options, not there", stated(HOP_BY_HOP, bytes([6, 255]) + PADDING)),
    dropped("options to the end of the packet", frame(OPTIONS, payload=b"")),
    dropped("TCP beyond the packet", frame(OPTIONS, payload=SYN_TO_SHARED[:19])),
    dropped("TCP beyond the packet, far behind", frame(*[OPTIONS] * 5, payload=SYN_TO_SHARED[:19])),
    dropped("TCP of 4 words, far behind", frame(*[OPTIONS] * 5, payload=tcp(1, w.SHARED, words=4))),
    dropped("no UDP, far behind", frame(*[OPTIONS] * 5, protocol=17, payload=b"")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_verdict(shared_world: World, case: Case) -> None:
    check(shared_world, case)


@pytest.mark.parametrize("headers", range(8))
def test_cut_off_at_each_byte(world: World, headers: int) -> None:
    """By the frame's end, and by the payload length."""
    extensions = extension(DESTINATION_OPTIONS, PADDING) * (headers - 1)
    extensions += extension(6, PADDING) if headers else b""
    first = DESTINATION_OPTIONS if headers else 6
    for length in range(len(extensions) + len(SYN_TO_SHARED)):
        kept = (extensions + SYN_TO_SHARED)[:length]
        packet = ipv6(CLIENT6, VIP6, 6, kept, first=first)
        assert world.send(w.ip6_frame(packet)) == ["drop_malformed"], length
        packet = ipv6(CLIENT6, VIP6, 6, kept, first=first, length=length + 1)
        assert world.send(w.ip6_frame(packet)) == ["drop_malformed"], length


def test_the_same_flow_with_and_without(world: World) -> None:
    assert world.send(w.segment(w.SHARED, vip=VIP6)) == ["selected"]
    assert world.send(frame(OPTIONS), frame(*[OPTIONS] * 6)) == ["established"] * 2
    assert len(list(world.kernel.connections())) == 1
