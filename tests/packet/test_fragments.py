# SPDX-License-Identifier: Apache-2.0
"""Fragments of both families reach the target of the packet they are part of, in any order."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from anyport.decide.rows import RouteKind, RouteRow
from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.libbpf import Map
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.cases import Case, check, dropped, on, same
from tests.packet.wire import OTHER_TARGET_MAC, TARGET_MAC, Wire, forwarded
from tests.packet.world import CLIENT, CLIENT6, PASSED, REDIRECTED, VIP, VIP6, VIPS, World
from tests.support.packets import (
    ACK,
    DESTINATION_OPTIONS,
    DONT_FRAGMENT,
    FRAGMENT,
    chained,
    fragments4,
    fragments6,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    tcp,
    udp,
)

families = pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])


def fragments(
    protocol: int,
    payload: bytes,
    vip: Address = VIP,
    *,
    size: int = 48,
    identification: int = 7,
    ttl: int = 64,
) -> list[bytes]:
    """The frames of one packet from the client to the VIP."""
    if isinstance(vip, IPv6Address):
        pieces = fragments6(
            CLIENT6, vip, protocol, payload, size, identification=identification, ttl=ttl
        )
        return [w.ip6_frame(piece) for piece in pieces]
    pieces = fragments4(
        CLIENT, VIP, protocol, payload, size, identification=identification, ttl=ttl
    )
    return [w.ip_frame(piece) for piece in pieces]


def datagram(port: int, vip: Address = VIP, length: int = 100, **fields: int) -> list[bytes]:
    """Of three fragments; by default 48, 48 and 12 bytes."""
    data = bytes(i % 251 for i in range(length))
    return fragments(17, udp(5000, port, data), vip, **fields)


def single(vip: Address) -> list[Case]:
    def first(port: int, **fields: int) -> bytes:
        return datagram(port, vip, **fields)[0]

    segment = tcp(5000, w.SHARED, ACK, data=bytes(100))
    echo = icmpv6(CLIENT6, VIP6, 128, 0, bytes(100)) if vip == VIP6 else icmp(8, 0, bytes(100))
    echo_protocol = 58 if vip == VIP6 else 1
    tiny = tcp(5000, w.SHARED, options=bytes(40), data=bytes(40))
    return [
        on("first, shared port", first(w.SHARED), "selected"),
        on("first, unique port", first(w.UNIQUE), "unique"),
        on("first, of TCP", fragments(6, segment, vip)[0], "hashed"),
        on("first, of a UDP header and no more", datagram(w.SHARED, vip, size=8)[0], "selected"),
        same("first, the target is here", first(w.AT_HOME), "selected"),
        same("first, no route", first(w.CLOSED), "no_route"),
        same("first, of an echo request", fragments(echo_protocol, echo, vip)[0], "other_protocol"),
        same("first, of SCTP", fragments(132, bytes(100), vip)[0], "other_protocol"),
        dropped("first, no whole TCP header", fragments(6, segment, vip, size=16)[0]),
        dropped("first, no whole TCP options", fragments(6, tiny, vip, size=56)[0]),
        dropped(
            "first, a UDP length of 7", fragments(17, udp(5000, w.SHARED, bytes(99), 7), vip)[0]
        ),
        dropped("first, the last hop", first(w.SHARED, ttl=1), "drop_ttl"),
        dropped("first, no path", first(w.TO_NO_PATH), "drop_no_path"),
        *(
            dropped(f"{which}, before the first", frame, "fragment_held")
            for which, frame in zip(("middle", "last"), datagram(w.SHARED, vip)[1:], strict=True)
        ),
        dropped("2050 bytes", datagram(w.SHARED, vip, 5000, size=2016)[1], "drop_fragment"),
        dropped("just below", datagram(w.SHARED, vip, 4000, size=1984)[1], "fragment_held"),
    ]


def later(description: str, fragment: int, payload: bytes = bytes(16)) -> Case:
    frame = w.ip_frame(ipv4(CLIENT, VIP, 17, payload, fragment=fragment))
    return dropped(description, frame, "fragment_held")


headers = (DESTINATION_OPTIONS, bytes.fromhex("010400000000"))
first_chain = chained([headers, (FRAGMENT, bytes.fromhex("000100000007")), headers], 17)
later_chain = chained([headers, (FRAGMENT, bytes.fromhex("003000000007"))], 17)
eighth = chained([headers] * 7 + [(FRAGMENT, bytes.fromhex("003000000007"))], DESTINATION_OPTIONS)
nested = chained([(FRAGMENT, bytes.fromhex("000100000007"))] * 2, 17)


def chain_frame(chain: tuple[int, bytes], payload: bytes) -> bytes:
    return w.ip6_frame(ipv6(CLIENT6, VIP6, 17, payload, first=chain[0], extensions=chain[1]))


IPV4 = [
    *single(VIP),
    later("later, with DF", DONT_FRAGMENT | 2),
    later("later, empty", 1, b""),
    later("later, at the highest offset", 0x1FFF),
    on(
        "neither DF nor MF",
        w.ip_frame(ipv4(CLIENT, VIP, 6, tcp(1, w.SHARED), fragment=0)),
        "selected",
    ),
    on(
        "the reserved bit",
        w.ip_frame(ipv4(CLIENT, VIP, 6, tcp(1, w.SHARED), fragment=0x8000)),
        "selected",
    ),
    dropped(
        "later, total length beyond the frame",
        w.ip_frame(ipv4(CLIENT, VIP, 17, bytes(16), fragment=2, total=37)),
    ),
]

IPV6 = [
    *single(VIP6),
    on(
        "first, among other headers",
        chain_frame(first_chain, udp(5000, w.SHARED, bytes(8), 99)),
        "selected",
    ),
    dropped("later, behind other headers", chain_frame(later_chain, bytes(16)), "fragment_held"),
    dropped("later, as the eighth header", chain_frame(eighth, bytes(16)), "fragment_held"),
    dropped("a fragment within a fragment", chain_frame(nested, udp(5000, w.SHARED))),
    dropped("half a Fragment header", chain_frame((FRAGMENT, bytes(7)), b"")),
    dropped(
        "first, without the whole header chain (RFC 7112)",
        chain_frame(chained([(FRAGMENT, bytes.fromhex("000100000007"))], DESTINATION_OPTIONS), b""),
    ),
]


def of_family(prefix: str, cases: list[Case]) -> list[Case]:
    return [replace(case, description=f"{prefix}: {case.description}") for case in cases]


CASES = [*of_family("IPv4", IPV4), *of_family("IPv6", IPV6)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_verdict(shared_world: World, case: Case) -> None:
    check(shared_world, case)


# ---- in order: one program, several frames ----


def actions(world: World, frames: list[bytes]) -> list[tuple[str, int]]:
    return [(o.verdict, o.action) for o in map(world.run, frames)]


@families
def test_to_the_target_of_the_first(world: World, vip: Address) -> None:
    """By turns: here, elsewhere, elsewhere; also duplicates, also the last before the middle."""
    for turn, way in enumerate([PASSED, REDIRECTED, REDIRECTED]):
        data = udp(5000 + turn, w.TURNS, bytes(100))
        first, middle, last = fragments(17, data, vip, identification=turn)
        expected = [("selected", way)] + [("fragment", way)] * 4
        assert actions(world, [first, last, middle, middle, last]) == expected


@families
def test_exact_bytes(world: World, vip: Address) -> None:
    for frame in datagram(w.SHARED, vip):
        assert world.run(frame).out == on("", frame, "").out


@families
def test_to_the_target_of_the_flow(world: World, vip: Address) -> None:
    """Whole datagrams and fragmented ones are one flow."""
    world.send(*[w.datagram(w.TURNS, port, vip=vip) for port in (4998, 4999)])
    assert world.run(w.datagram(w.TURNS, vip=vip)).action == REDIRECTED
    slot = world.slot()
    assert world.send(*datagram(w.TURNS, vip)) == ["established", "fragment", "fragment"]
    assert world.slot() == slot


@families
def test_each_packet_by_its_own(world: World, vip: Address) -> None:
    """Another identification or client; and in IPv4 another protocol."""
    here = datagram(w.AT_HOME, vip)
    assert world.run(here[0]).action == PASSED
    strangers = [datagram(w.AT_HOME, vip, identification=8)[1]]
    other = 12 if vip == VIP else 23  # the last byte but three of the source address
    strangers.append(here[1][: 14 + other] + b"\x77" + here[1][15 + other :])
    if vip == VIP:
        strangers.append(fragments(6, bytes(100), vip)[1])
    assert set(world.send(*strangers)) == {"fragment_held"}
    assert world.run(here[1]) == world.run(here[1])
    assert world.run(here[1]).action == PASSED


def test_protocol_of_a_later_ipv6_fragment_means_nothing(world: World) -> None:
    """RFC 8200 4.5: only that of the first is used."""
    world.send(datagram(w.SHARED, VIP6)[0])
    assert world.send(fragments(6, bytes(100), VIP6)[1]) == ["fragment"]


@families
def test_the_number_used_again(world: World, vip: Address) -> None:
    world.send(*datagram(w.AT_HOME, vip))
    again = actions(world, datagram(w.UNIQUE, vip))
    assert again == [("unique", REDIRECTED)] + [("fragment", REDIRECTED)] * 2


@families
def test_what_the_local_stack_answers_it_gets_whole(world: World, vip: Address) -> None:
    """An echo request, a datagram to refuse (R8), and one for a listener here."""
    echo = icmpv6(CLIENT6, VIP6, 128, 0, bytes(100)) if vip == VIP6 else icmp(8, 0, bytes(100))
    ping = fragments(58 if vip == VIP6 else 1, echo, vip, identification=9)
    for frames in (ping, datagram(w.CLOSED, vip), datagram(w.AT_HOME, vip, identification=10)):
        assert {action for _, action in actions(world, frames)} == {PASSED}


@families
def test_the_rest_of_what_is_dropped_goes_nowhere(world: World, vip: Address) -> None:
    assert world.send(*datagram(w.TO_NO_PATH, vip)) == ["drop_no_path", *["fragment_held"] * 2]


@families
def test_fragments_of_an_icmp_error(world: World, vip: Address) -> None:
    """The client inside is not the router that sends the error."""
    inside = udp(w.UNIQUE, 5000, bytes(100))
    if vip == VIP6:
        body = icmpv6(CLIENT6, VIP6, 2, 0, bytes(4) + ipv6(VIP6, CLIENT6 + 9, 17, inside))
    else:
        body = icmp(3, 4, bytes(4) + ipv4(VIP, CLIENT + 9, 17, inside))
    frames = fragments(58 if vip == VIP6 else 1, body, vip, size=64)
    assert world.send(*frames) == ["icmp_error", "fragment", "fragment"]


def test_a_slot_handed_over_takes_no_fragments_along(world: World) -> None:
    first, middle, _ = datagram(w.UNIQUE)
    world.send(first)
    world.kernel.forget_connections({w.B})
    assert world.send(middle) == ["fragment_held"]


# ---- out of order: on a wire, as fragments are put back into its queue ----


def expect(wire: Wire, frames: list[bytes], mac: bytes) -> None:
    """All of them, in any order: the receiver puts them together."""
    received = sorted(wire.receive() for _ in frames)
    assert received == sorted(forwarded(frame, mac) for frame in frames)


@families
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_any_order(
    kernel: DistributorKernel, wire: Wire, vip: Address, order: tuple[int, ...]
) -> None:
    frames = datagram(w.UNIQUE, vip)
    wire.send(*(frames[i] for i in order))
    expect(wire, frames, OTHER_TARGET_MAC)
    waited = order.index(0)
    counters = kernel.counters()
    assert counters["fragment_held"] == waited
    assert counters["fragments_released"] == (1 if waited else 0)
    assert counters["fragment"] == 2


@families
def test_the_longest_datagram_backwards(
    kernel: DistributorKernel, wire: Wire, vip: Address
) -> None:
    frames = datagram(w.UNIQUE, vip, 65507 - 20, size=1448)
    wire.send(*reversed(frames))
    expect(wire, frames, OTHER_TARGET_MAC)
    assert len(frames) == 46


def test_many_packets_backwards_at_once(kernel: DistributorKernel, wire: Wire) -> None:
    """Of both families, to either target, their fragments mixed."""
    packets = [
        (datagram(port, vip, identification=number), mac)
        for number in range(5)
        for vip in VIPS
        for port, mac in ((w.SHARED, TARGET_MAC), (w.UNIQUE, OTHER_TARGET_MAC))
        if number % 2 == (port == w.SHARED)
    ]
    for which in (2, 1, 0):
        wire.send(*(frames[which] for frames, _ in packets))
    expected = [forwarded(frame, mac) for frames, mac in packets for frame in frames]
    assert sorted(wire.receive() for _ in expected) == sorted(expected)


def test_a_packet_whose_fragments_waited_too_long(
    kernel: DistributorKernel, wire: Wire, pins: Path
) -> None:
    """The number is another packet's by then: what waited is not put back."""
    first, middle, last = datagram(w.UNIQUE)
    wire.send(last)
    wire.send(w.segment(w.UNIQUE))
    wire.receive()
    age(pins)
    wire.send(first)
    assert wire.receive() == forwarded(first, OTHER_TARGET_MAC)
    age(pins)
    wire.send(middle, first)
    expect(wire, [first, middle], OTHER_TARGET_MAC)
    assert kernel.counters()["fragment_held"] == 2


def age(pins: Path) -> None:
    """As if every fragment had come long ago: struct fragment_place begins with when."""
    places = Map.open_pinned(pins / "fragments")
    for key, value in places.items():
        places.update(key, bytes(8) + value[8:])
    places.close()


def test_more_than_are_held(kernel: DistributorKernel, wire: Wire) -> None:
    """The oldest give way: 600 wait, 512 at most, and of one packet 64."""
    strangers = [datagram(w.UNIQUE, identification=100 + i)[1] for i in range(600)]
    wire.send(*strangers)
    frames = datagram(w.UNIQUE)
    wire.send(*reversed(frames))
    expect(wire, frames, OTHER_TARGET_MAC)
    wire.send(datagram(w.UNIQUE, identification=699)[0])
    kept = [datagram(w.UNIQUE, identification=699)[i] for i in (0, 1)]
    expect(wire, kept, OTHER_TARGET_MAC)
    wire.send(datagram(w.UNIQUE, identification=100)[0])
    assert wire.receive() == forwarded(datagram(w.UNIQUE, identification=100)[0], OTHER_TARGET_MAC)


def test_a_route_changed_while_fragments_wait(kernel: DistributorKernel, wire: Wire) -> None:
    first, middle, last = datagram(w.SHARED)
    wire.send(last)
    row = RouteRow(RouteKind.UNIQUE, w.B, 1 << w.B)
    kernel.set_routes(VIPS[VIP], {(Protocol.UDP, w.SHARED): row})
    wire.send(middle, first)
    expect(wire, [first, middle, last], OTHER_TARGET_MAC)
