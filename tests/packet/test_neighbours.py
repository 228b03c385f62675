# SPDX-License-Identifier: Apache-2.0
"""Neighbour discovery (RFC 4861): the VIP is answered for, and nobody else announces it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest

from tests.packet.cases import OTHER_MAC, Case, check, fence, same
from tests.packet.world import (
    CLIENT6,
    DROPPED,
    MAC,
    REDIRECTED,
    ROUTER_MAC,
    VIP,
    VIP6,
    World,
)
from tests.support.neighbours import (
    ADVERTISEMENT,
    ALL_NODES,
    NOBODY,
    NONCE,
    OVERRIDE,
    SOLICITATION,
    SOLICITED,
    SOURCE_MAC,
    TARGET_MAC,
    message,
    option,
    solicited_node,
)
from tests.support.packets import vlan

GROUP = solicited_node(VIP6)
ELSEWHERE = IPv6Address("fd00::2:100")
"""In the VIP's solicited-node group, and not the VIP."""
MAPPED = IPv6Address(f"::ffff:{VIP}")
OURS = option(TARGET_MAC, MAC)
MY_MAC = option(SOURCE_MAC, ROUTER_MAC)
RIVAL = option(TARGET_MAC, OTHER_MAC)


def solicitation(
    source: IPv6Address = CLIENT6,
    destination: IPv6Address = GROUP,
    target: IPv6Address = VIP6,
    options: bytes = MY_MAC,
    mac: bytes = ROUTER_MAC,
    **fields: Any,
) -> bytes:
    return message(SOLICITATION, mac, source, destination, target, options=options, **fields)


def advertisement(
    mac: bytes,
    options: bytes,
    source: IPv6Address = VIP6,
    destination: IPv6Address = ALL_NODES,
    target: IPv6Address = VIP6,
    **fields: Any,
) -> bytes:
    return message(ADVERTISEMENT, mac, source, destination, target, options=options, **fields)


TO_CLIENT = advertisement(
    MAC, OURS, destination=CLIENT6, destination_mac=ROUTER_MAC, flags=SOLICITED | OVERRIDE
)
TO_ALL = advertisement(MAC, OURS, flags=OVERRIDE)


def answered(description: str, frame: bytes, answer: bytes = TO_CLIENT) -> Case:
    return Case(description, frame, "ndp_replied", REDIRECTED, answer)


def ignored(description: str, frame: bytes) -> Case:
    return same(description, frame, "not_ours")


SOLICITATIONS = [
    answered("to the group", solicitation()),
    answered("without an option", solicitation(options=b"")),
    answered("the option twice", solicitation(options=MY_MAC * 2)),
    answered("eight options", solicitation(options=MY_MAC * 8)),
    answered("options of other types", solicitation(options=option(NONCE, bytes(22)) + MY_MAC)),
    answered("padded", solicitation(options=b"") + bytes(8)),
    answered("to the VIP (is it still there?)", solicitation(CLIENT6, VIP6, destination_mac=MAC)),
    answered("to the group, at our MAC", solicitation(destination_mac=MAC)),
    answered("duplicate address detection", solicitation(NOBODY, options=b""), TO_ALL),
    answered(
        "duplicate address detection, with a nonce (RFC 7527)",
        solicitation(NOBODY, options=option(NONCE, bytes(6))),
        TO_ALL,
    ),
    Case("while fenced", solicitation(), "ndp_ignored", DROPPED, setup=fence),
    Case(
        "duplicate address detection while fenced",
        solicitation(NOBODY, options=b""),
        "ndp_ignored",
        DROPPED,
        setup=fence,
    ),
    ignored("for another", solicitation(target=ELSEWHERE)),
    ignored(
        "for an IPv4 VIP, mapped", solicitation(destination=solicited_node(MAPPED), target=MAPPED)
    ),
    ignored("at another's MAC", solicitation(destination_mac=OTHER_MAC)),
    ignored("at another group's MAC", solicitation(destination_mac=b"\x33\x33\xff\x02\x01\x00")),
    ignored("to all nodes", solicitation(destination=ALL_NODES)),
    ignored("to the VIP, at another's MAC", solicitation(CLIENT6, VIP6, destination_mac=OTHER_MAC)),
    ignored("in a VLAN", vlan(solicitation())),
    ignored("through a router", solicitation(ttl=254)),
    ignored("of another code", solicitation(code=1)),
    ignored("with a wrong sum", solicitation(wrong_sum=1)),
    ignored("an option of no length", solicitation(options=bytes([SOURCE_MAC, 0]) + ROUTER_MAC)),
    ignored("an option beyond the end", solicitation(options=bytes([SOURCE_MAC, 2]) + ROUTER_MAC)),
    ignored("half an option", solicitation(options=MY_MAC + bytes([NONCE, 1, 0, 0]))),
    ignored("more options than are read", solicitation(options=MY_MAC * 9)),
    ignored("duplicate address detection that tells a MAC", solicitation(NOBODY)),
    ignored(
        "duplicate address detection to the VIP",
        solicitation(NOBODY, VIP6, options=b"", destination_mac=MAC),
    ),
]

ANNOUNCEMENTS = [
    same("our own advertisement", TO_ALL, "ndp_ignored"),
    same(
        "our own solicitation",
        solicitation(VIP6, mac=MAC, options=option(SOURCE_MAC, MAC)),
        "ndp_ignored",
    ),
    same("our MAC, sent by another", advertisement(OTHER_MAC, OURS), "ndp_ignored"),
    same("another's advertisement", advertisement(OTHER_MAC, RIVAL, flags=OVERRIDE), "fenced"),
    same("another's advertisement, no option", advertisement(OTHER_MAC, b""), "fenced"),
    same("another's advertisement, sent by us", advertisement(MAC, RIVAL), "fenced"),
    same(
        "another answers for the VIP",
        advertisement(OTHER_MAC, RIVAL, ELSEWHERE, CLIENT6, destination_mac=ROUTER_MAC),
        "fenced",
    ),
    same(
        "another asks in the VIP's name",
        solicitation(VIP6, solicited_node(CLIENT6), CLIENT6, option(SOURCE_MAC, OTHER_MAC)),
        "fenced",
    ),
    same("another asks for the VIP in its name", solicitation(VIP6), "fenced"),
    ignored("another's, of another address", advertisement(OTHER_MAC, RIVAL, target=ELSEWHERE)),
    ignored("another's, of an IPv4 VIP, mapped", advertisement(OTHER_MAC, RIVAL, target=MAPPED)),
    ignored("another's, through a router", advertisement(OTHER_MAC, RIVAL, ttl=64)),
    ignored("another's, with a wrong sum", advertisement(OTHER_MAC, RIVAL, wrong_sum=1)),
    ignored("another's, of another code", advertisement(OTHER_MAC, RIVAL, code=1)),
    ignored("another's, in a VLAN", vlan(advertisement(OTHER_MAC, RIVAL))),
    ignored(
        "another's, an answer, and to all (RFC 4861 7.1.2)",
        advertisement(OTHER_MAC, RIVAL, flags=SOLICITED | OVERRIDE),
    ),
    ignored("a redirect", message(137, OTHER_MAC, CLIENT6, ALL_NODES, VIP6)),
]


def of_type(prefix: str, cases: list[Case]) -> list[Case]:
    return [replace(case, description=f"{prefix}: {case.description}") for case in cases]


CASES = [*of_type("asked", SOLICITATIONS), *of_type("announced", ANNOUNCEMENTS)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_verdict(shared_world: World, case: Case) -> None:
    check(shared_world, case)


def test_cut_off_at_each_byte(world: World) -> None:
    for frame in (solicitation(), advertisement(OTHER_MAC, RIVAL)):
        for length in range(54, len(frame)):
            assert world.send(frame[:length]) == ["not_ours"], length


def test_every_bit_of_a_solicitation_is_summed(world: World) -> None:
    frame = solicitation()
    for bit in range(54 * 8, len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        assert world.send(bytes(flipped)) == ["not_ours"], bit


def test_fence_is_the_vips_own(world: World) -> None:
    assert world.send(advertisement(OTHER_MAC, RIVAL)) == ["fenced"]
    assert (world.kernel.fenced(0), world.kernel.fenced(7)) == (False, True)
    world.kernel.unfence(7)
    assert world.send(solicitation()) == ["ndp_replied"]
