# SPDX-License-Identifier: Apache-2.0
"""ICMP errors reach the target that has the connection; other ICMP is the local stack's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from anyport.decide.rows import RouteKind, RouteRow
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.cases import Case, check, dropped, on, same
from tests.packet.world import CLIENT, CLIENT6, PASSED, REDIRECTED, VIP, VIP6, VIPS, World
from tests.support.packets import (
    ACK,
    DESTINATION_OPTIONS,
    FRAGMENT,
    MORE_FRAGMENTS,
    RST,
    chained,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    tcp,
    udp,
)

ROUTER = IPv4Address("203.0.113.1")
ROUTER6 = IPv6Address("2001:db8:ffff::1")
FRAGMENTATION_NEEDED, PORT_UNREACHABLE, IN_TRANSIT, POINTER = (3, 4), (3, 3), (11, 0), (12, 0)
TOO_BIG, PORT_UNREACHABLE6, IN_TRANSIT6, POINTER6 = (2, 0), (1, 4), (3, 0), (4, 1)
MTU = bytes.fromhex("00000514")
OPTIONS = (DESTINATION_OPTIONS, bytes.fromhex("010400000000"))


def sent(port: int, client_port: int = 5000, flags: int = ACK) -> bytes:
    """The target's TCP segment."""
    return tcp(port, client_port, flags, data=b"answer")


def inside(protocol: int, payload: bytes, vip: Address = VIP, **fields: Any) -> bytes:
    """The packet that could not go on."""
    if isinstance(vip, IPv6Address):
        return ipv6(vip, CLIENT6, protocol, payload, **fields)
    return ipv4(VIP, CLIENT, protocol, payload, **fields)


def error(kind: tuple[int, int], packet: bytes, vip: Address = VIP, **fields: Any) -> bytes:
    if isinstance(vip, IPv6Address):
        body = icmpv6(ROUTER6, vip, *kind, MTU + packet)
        return w.ip6_frame(ipv6(ROUTER6, vip, 58, body, **fields))
    return w.ip_frame(ipv4(ROUTER, VIP, 1, icmp(*kind, MTU + packet), **fields))


def too_big(port: int, client_port: int = 5000, vip: Address = VIP, **fields: Any) -> bytes:
    kind = TOO_BIG if isinstance(vip, IPv6Address) else FRAGMENTATION_NEEDED
    return error(kind, inside(6, sent(port, client_port), vip), vip, **fields)


def about(vip: Address) -> list[Case]:
    def segment(port: int) -> bytes:
        return inside(6, sent(port), vip)

    kinds = {
        "too big": TOO_BIG if vip == VIP6 else FRAGMENTATION_NEEDED,
        "unreachable": PORT_UNREACHABLE6 if vip == VIP6 else PORT_UNREACHABLE,
        "time exceeded": IN_TRANSIT6 if vip == VIP6 else IN_TRANSIT,
        "parameter problem": POINTER6 if vip == VIP6 else POINTER,
    }
    kind = kinds["too big"]
    answer = udp(w.SHARED, 5000, b"answer")
    stranger = CLIENT6 if vip == VIP6 else CLIENT
    make: Callable[..., bytes] = ipv6 if vip == VIP6 else ipv4
    echo = 58 if vip == VIP6 else 1
    return [
        *(
            on(name, error(kind, segment(w.SHARED), vip), "icmp_error")
            for name, kind in kinds.items()
        ),
        on("of a datagram", error(kind, inside(17, answer, vip), vip), "icmp_error"),
        on("of a fallback port", error(kind, segment(w.FALLBACK), vip), "icmp_error"),
        on("of a port with turns", error(kind, segment(w.ONLY_A), vip), "icmp_error"),
        on("of a unique port", error(kind, segment(w.UNIQUE), vip), "icmp_error"),
        same("of a unique port here", error(kind, segment(w.UNIQUE_HERE), vip), "icmp_error"),
        same("of a port here", error(kind, segment(w.AT_HOME), vip), "icmp_error"),
        same("of a port without a route", error(kind, segment(w.CLOSED), vip), "no_route"),
        on("the ports and no more", error(kind, segment(w.SHARED)[:-22], vip), "icmp_error"),
        dropped("half the ports", error(kind, segment(w.SHARED)[:-23], vip), "drop_icmp"),
        dropped(
            "half the ports, padded",
            error(kind, segment(w.SHARED)[:-23], vip) + bytes(9),
            "drop_icmp",
        ),
        dropped("nothing inside", error(kind, b"", vip), "drop_icmp"),
        dropped(
            "of another version",
            error(kind, segment(w.SHARED).replace(segment(w.SHARED)[:1], b"\x50", 1), vip),
            "drop_icmp",
        ),
        dropped(
            "not from the VIP",
            error(kind, make(stranger, stranger, 6, sent(w.SHARED)), vip),
            "drop_icmp",
        ),
        dropped(
            "to the VIP", error(kind, make(stranger, vip, 6, sent(w.SHARED)), vip), "drop_icmp"
        ),
        same("of an echo reply", error(kind, inside(echo, bytes(8), vip), vip), "other_protocol"),
        same("of SCTP", error(kind, inside(132, bytes(12), vip), vip), "other_protocol"),
        dropped("the last hop", too_big(w.SHARED, vip=vip, ttl=1), "drop_ttl"),
        dropped(
            "to a host without a path", error(kind, segment(w.TO_NO_PATH), vip), "drop_no_path"
        ),
        dropped("an empty message", w.to_vip(echo, b"", vip), "drop_icmp"),
        dropped("a type and no more", w.to_vip(echo, bytes([kind[0]]), vip), "drop_icmp"),
    ]


IPV4 = [
    *about(VIP),
    on("behind options", too_big(w.SHARED, options=b"\x01" * 40), "icmp_error"),
    on(
        "options inside",
        error(FRAGMENTATION_NEEDED, inside(6, sent(w.SHARED), options=b"\x01" * 40)),
        "icmp_error",
    ),
    on(
        "a first fragment inside",
        error(
            FRAGMENTATION_NEEDED,
            inside(17, udp(w.SHARED, 5000, b"x" * 8, 999), fragment=MORE_FRAGMENTS),
        ),
        "icmp_error",
    ),
    dropped(
        "a later fragment inside",
        error(FRAGMENTATION_NEEDED, inside(17, bytes(16), fragment=MORE_FRAGMENTS | 5)),
        "drop_icmp",
    ),
    dropped(
        "a header of 4 words inside",
        error(FRAGMENTATION_NEEDED, inside(6, sent(w.SHARED), words=4)),
        "drop_icmp",
    ),
    dropped(
        "a header longer than the message",
        error(FRAGMENTATION_NEEDED, inside(6, b"", words=15)),
        "drop_icmp",
    ),
    *(
        same(name, w.to_vip(1, icmp(type, 0, bytes(8))), "other_protocol")
        for name, type in {
            "echo request": 8,
            "echo reply": 0,
            "source quench": 4,
            "redirect": 5,
            "router advertisement": 9,
            "router solicitation": 10,
            "timestamp": 13,
            "timestamp reply": 14,
            "address mask request": 17,
            "an extended echo request (RFC 8335)": 42,
            "a reserved type": 1,
        }.items()
    ),
    same("ICMPv6 in IPv4", w.to_vip(58, icmp(2, 0, MTU)), "other_protocol"),
]

first, chain = chained([OPTIONS, (FRAGMENT, bytes(6)), OPTIONS], 6)
started, start = chained([(FRAGMENT, bytes.fromhex("000100000007"))], 17)
continued, later = chained([(FRAGMENT, bytes.fromhex("002900000007"))], 17)
long, eight = chained([OPTIONS] * 9, 6)

IPV6 = [
    *about(VIP6),
    on(
        "behind extension headers",
        too_big(
            w.SHARED,
            vip=VIP6,
            first=chained([OPTIONS], 58)[0],
            extensions=chained([OPTIONS], 58)[1],
        ),
        "icmp_error",
    ),
    on(
        "extension headers inside",
        error(TOO_BIG, inside(6, sent(w.SHARED), VIP6, first=first, extensions=chain), VIP6),
        "icmp_error",
    ),
    on(
        "a first fragment inside",
        error(
            TOO_BIG,
            inside(17, udp(w.SHARED, 5000, b"x" * 8, 999), VIP6, first=started, extensions=start),
            VIP6,
        ),
        "icmp_error",
    ),
    dropped(
        "a later fragment inside",
        error(TOO_BIG, inside(17, bytes(16), VIP6, first=continued, extensions=later), VIP6),
        "drop_icmp",
    ),
    dropped(
        "nine extension headers inside",
        error(TOO_BIG, inside(6, sent(w.SHARED), VIP6, first=long, extensions=eight), VIP6),
        "drop_icmp",
    ),
    dropped(
        "cut off in an extension header",
        error(TOO_BIG, inside(6, b"", VIP6, first=first, extensions=chain[:12]), VIP6),
        "drop_icmp",
    ),
    *(
        same(name, w.to_vip(58, icmpv6(CLIENT6, VIP6, type, 0, bytes(24)), VIP6), "other_protocol")
        for name, type in {
            "echo request": 128,
            "echo reply": 129,
            "multicast listener query": 130,
            "router solicitation": 133,
            "router advertisement": 134,
            "node information query": 139,
            "an extended echo request (RFC 8335)": 160,
            "redirect": 137,
            "an unknown error": 100,
            "a reserved type": 0,
            "parameter problem and one": 5,
        }.items()
    ),
    same("ICMP in IPv6", w.to_vip(1, icmp(3, 4, MTU), VIP6), "other_protocol"),
]


def of_family(prefix: str, cases: list[Case]) -> list[Case]:
    return [replace(case, description=f"{prefix}: {case.description}") for case in cases]


CASES = [*of_family("IPv4", IPV4), *of_family("IPv6", IPV6)]

families = pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_verdict(shared_world: World, case: Case) -> None:
    check(shared_world, case)


@families
def test_to_the_target_that_has_the_connection(world: World, vip: Address) -> None:
    """By turns: the first of three here, the others elsewhere; an hour later, the route gone."""
    world.send(*(w.segment(w.TURNS, client_port=port, vip=vip) for port in range(5000, 5003)))
    for row in (w.ROUTES[w.TURNS], RouteRow(RouteKind.NONE)):
        world.route(w.TURNS, row)
        errors = [world.run(too_big(w.TURNS, port, vip)) for port in range(5000, 5003)]
        assert [e.verdict for e in errors] == ["icmp_error"] * 3
        assert [e.action for e in errors] == [PASSED, REDIRECTED, REDIRECTED]


@families
def test_where_the_hash_says_if_nothing_is_known(world: World, vip: Address) -> None:
    world.kernel.set_selection(6, 0, [w.HERE, w.A] * 50)
    world.route(w.SHARED, w.distributed(6, w.HERE, w.A))
    ports = range(5000, 5064)
    errors = [world.run(too_big(w.SHARED, port, vip)).action for port in ports]
    assert list(world.kernel.connections()) == []
    opened = [world.run(w.segment(w.SHARED, client_port=port, vip=vip)).action for port in ports]
    assert errors == opened
    assert set(errors) == {PASSED, REDIRECTED}


@families
def test_no_sign_of_life(world: World, vip: Address) -> None:
    """Anybody can send one: it neither keeps, establishes nor ends a connection."""
    world.send(w.segment(w.SHARED, vip=vip))
    before = world.connection()
    kind = TOO_BIG if vip == VIP6 else FRAGMENTATION_NEEDED
    for flags in (ACK, RST):
        packet = inside(6, sent(w.SHARED, flags=flags), vip)
        assert world.send(error(kind, packet, vip)) == ["icmp_error"]
    assert world.connection() == before


@families
def test_cut_off_at_each_byte(world: World, vip: Address) -> None:
    frame = too_big(w.UNIQUE, vip=vip)
    header = 40 if vip == VIP6 else 20
    for kept in range(8 + header + 4):
        body = frame[14 + header :][:kept]
        packet = w.to_vip(58 if vip == VIP6 else 1, body, vip)
        assert world.send(packet) == ["drop_icmp"], kept
