# SPDX-License-Identifier: Apache-2.0
"""Packets to a target that is not on the LAN: in an outer packet, or their sender is told why not.

RFC 2003 and 2473 (the outer header), 6040 (ECN), 1191 and 8201 (the path's MTU).
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path as PinDirectory

import pytest

from anyport.decide.rows import Hop, HostRow, Path
from anyport.kernel.abi import LearntMtu
from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.libbpf import Map
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.cases import Case, check, dropped, same
from tests.packet.test_icmp import ROUTER, ROUTER6
from tests.packet.wire import Wire
from tests.packet.world import (
    CLIENT,
    CLIENT6,
    DROPPED,
    MAC,
    OUTER,
    OUTER6,
    OWN,
    OWN6,
    REDIRECTED,
    ROUTER_MAC,
    VIP,
    VIP6,
    VIPS,
    World,
    in_outer,
    segment,
)
from tests.support.packets import (
    ACK,
    DESTINATION_OPTIONS,
    MORE_FRAGMENTS,
    chained,
    fragments4,
    fragments6,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    one_hop_on,
    tcp,
    udp,
)

PAIRS: dict[str, tuple[Address, int, Address]] = {
    "4in4": (VIP, w.TO_TUNNEL, OUTER),
    "6in6": (VIP6, w.TO_TUNNEL, OUTER6),
    "4in6": (VIP, w.TO_CROSSED, OUTER6),
    "6in4": (VIP6, w.TO_CROSSED, OUTER),
}
pairs = pytest.mark.parametrize(("vip", "port", "outer"), PAIRS.values(), ids=PAIRS)
families = pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])
GROUP, GROUP6 = IPv4Address("239.1.2.3"), IPv6Address("ff0e::1")


def overhead(outer: Address) -> int:
    return 20 if outer.version == 4 else 40


def tunnelled(description: str, frame: bytes, outer: Address, verdict: str = "unique") -> Case:
    return Case(description, frame, verdict, REDIRECTED, in_outer(one_hop_on(frame), outer))


def of_length(length: int, vip: Address, port: int, flags: int = ACK) -> bytes:
    """A segment in a packet of this many bytes."""
    headers = 40 if vip.version == 4 else 60
    return segment(port, flags, vip=vip, data=bytes(i % 251 for i in range(length - headers)))


def told(frame: bytes, mtu: int) -> bytes:
    """What the client is told of its packet."""
    packet = frame[14:]
    if packet[0] >> 4 == 4:
        message = icmp(3, 4, struct.pack("!I", mtu) + packet[:548])
        answer = ipv4(VIP, CLIENT, 1, message, tos=0xC0, identification=0)
    else:
        message = icmpv6(VIP6, CLIENT6, 2, 0, struct.pack("!I", mtu) + packet[:1232])
        answer = ipv6(VIP6, CLIENT6, 58, message)
    return ROUTER_MAC + MAC + frame[12:14] + answer


def too_big(description: str, frame: bytes, mtu: int) -> Case:
    return Case(description, frame, "too_big", REDIRECTED, told(frame, mtu))


def each_pair(vip: Address, port: int, outer: Address) -> list[Case]:
    room = w.PATH_MTU - overhead(outer)
    datagram = w.datagram(port, vip=vip)
    return [
        tunnelled("a SYN", segment(port, vip=vip), outer),
        tunnelled("a datagram", datagram, outer),
        tunnelled("TTL 2", segment(port, vip=vip, ttl=2), outer),
        tunnelled("TTL 255", segment(port, vip=vip, ttl=255), outer),
        dropped("TTL 1", segment(port, vip=vip, ttl=1), "drop_ttl"),
        tunnelled("just fits", of_length(room, vip, port), outer),
        too_big("one byte more", of_length(room + 1, vip, port), room),
        too_big("as large as the LAN's", of_length(1500, vip, port), room),
        too_big("an odd length", of_length(1499, vip, port), room),
        padded(vip, port, outer),
    ]


def padded(vip: Address, port: int, outer: Address) -> Case:
    """Ethernet's padding stays behind, and is not counted."""
    frame = segment(port, vip=vip)
    out = in_outer(one_hop_on(frame), outer) + bytes(6)
    return Case("padded", frame + bytes(6), "unique", REDIRECTED, out)


def marked(frame: bytes, tos: int) -> bytes:
    """With this DSCP and ECN."""
    if frame[14] >> 4 == 6:
        return frame[:14] + bytes([0x60 | tos >> 4, tos << 4 & 0xF0]) + frame[16:]
    packet = frame[34:]
    return w.ip_frame(ipv4(CLIENT, VIP, frame[23], packet, tos=tos))


TRAFFIC_CLASSES = {"CE": 3, "ECT(0)": 2, "ECT(1)": 1, "EF": 0xB8, "all bits": 0xFF}


def traffic_classes(vip: Address, port: int, outer: Address) -> list[Case]:
    cases = []
    for name, tos in TRAFFIC_CLASSES.items():
        frame = marked(segment(port, vip=vip), tos)
        out = in_outer(one_hop_on(frame), outer, tos=tos)
        cases.append(Case(name, frame, "unique", REDIRECTED, out))
    return cases


FIRST, CHAIN = chained([(DESTINATION_OPTIONS, bytes.fromhex("010400000000"))], 6)
WITH_OPTIONS = w.ip6_frame(
    ipv6(CLIENT6, VIP6, 6, tcp(5000, w.TO_TUNNEL), first=FIRST, extensions=CHAIN)
)
LARGE = bytes(1460)


def from_ipv4(source: IPv4Address) -> bytes:
    return w.ip_frame(ipv4(source, VIP, 6, tcp(5000, w.TO_TUNNEL, ACK, data=LARGE)))


def from_ipv6(source: IPv6Address) -> bytes:
    return w.ip6_frame(ipv6(source, VIP6, 6, tcp(5000, w.TO_TUNNEL, ACK, data=LARGE[:1440])))


OTHERS = [
    tunnelled("IPv4 options", segment(w.TO_TUNNEL, options=b"\x01" * 8), OUTER),
    tunnelled("extension headers", WITH_OPTIONS, OUTER6),
    too_big("IPv4 options", segment(w.TO_TUNNEL, ACK, options=b"\x01" * 8, data=LARGE), 1480),
    too_big(
        "without Don't Fragment",
        w.ip_frame(ipv4(CLIENT, VIP, 17, udp(5000, w.TO_TUNNEL, LARGE), fragment=0)),
        1480,
    ),
    too_big(
        "a first fragment",
        w.ip_frame(fragments4(CLIENT, VIP, 17, udp(5000, w.TO_TUNNEL, bytes(3000)), 1480)[0]),
        1480,
    ),
    *(
        dropped(f"too big, from {source}", from_ipv4(IPv4Address(source)), "drop_too_big")
        for source in ("0.0.0.0", "127.0.0.1", "239.1.2.3", "255.255.255.255")
    ),
    *(
        dropped(f"too big, from {source}", from_ipv6(IPv6Address(source)), "drop_too_big")
        for source in ("::", "ff0e::1")
    ),
    dropped(
        "an ICMP error that is too big",
        w.to_vip(
            1,
            icmp(3, 4, bytes(4) + ipv4(VIP, CLIENT, 6, tcp(w.TO_TUNNEL, 5000, data=bytes(1440)))),
        ),
        "drop_too_big",
    ),
]


def without_source(world: World) -> None:
    hop = Hop(OUTER, Path.IPIP, 1, None, 1500)
    world.kernel.set_host(w.TUNNEL, HostRow(hop, hop, 100))


def of_two_families(world: World) -> None:
    hop = Hop(OUTER6, Path.IPIP, 1, OWN, 1500)
    world.kernel.set_host(w.TUNNEL, HostRow(hop, hop, 100))


SETUPS = [
    Case(
        f"{name}, to {vip}",
        segment(w.TO_TUNNEL, vip=vip),
        "drop_no_path",
        DROPPED,
        setup=setup,
    )
    for vip in VIPS
    for name, setup in {
        "no source": without_source,
        "a source of the other family": of_two_families,
    }.items()
]


def lately(outer: Address, mtu: int, *, by: Address | None = None, cut: int = 48) -> bytes:
    """A router to the distributor: `cut` bytes of an outer packet, of its own or `by` another."""
    frame = in_outer(segment(w.TO_TUNNEL), outer, by)
    packet = frame[14:][:cut]
    if outer.version == 4:
        message = icmp(3, 4, struct.pack("!I", mtu) + packet)
        return w.ip_frame(ipv4(ROUTER, OWN, 1, message))
    body = icmpv6(ROUTER6, OWN6, 2, 0, struct.pack("!I", mtu) + packet)
    return w.ip6_frame(ipv6(ROUTER6, OWN6, 58, body))


STRANGER, STRANGER6 = IPv4Address("10.9.0.77"), IPv6Address("fd00:9::77")


def elsewhere(frame: bytes, to: Address) -> bytes:
    """The message, to another of this host's addresses than the outer packet's source."""
    if isinstance(to, IPv4Address):
        return w.ip_frame(ipv4(ROUTER, to, 1, frame[34:]))
    return w.ip6_frame(ipv6(ROUTER6, to, 58, frame[54:]))


def messages(outer: Address, other: Address, own: Address) -> list[Case]:
    least = 28 if outer.version == 4 else 48
    frame = lately(outer, 1400)
    kind = 34 if outer.version == 4 else 54
    return [
        same("learnt", frame, "mtu_learnt"),
        same("with 8 bytes behind the outer header", lately(outer, 1400, cut=least), "mtu_learnt"),
        same("with half an outer header", lately(outer, 1400, cut=19), "not_ours"),
        same("of another host", lately(other, 1400), "not_ours"),
        same("of another's packet", lately(outer, 1400, by=other), "not_ours"),
        same("to another address", elsewhere(frame, other), "not_ours"),
        same(
            "of another tunnel of this host's",
            elsewhere(lately(outer, 1400, by=other), other),
            "not_ours",
        ),
        same("more than is known", lately(outer, 1501), "not_ours"),
        same("of another type", frame[:kind] + b"\x01" + frame[kind + 1 :], "not_ours"),
        same("of another code", frame[:kind] + b"\x03\x03" + frame[kind + 2 :], "not_ours"),
        same(
            "of no tunnel",
            frame.replace(in_outer(segment(w.TO_TUNNEL), outer)[14:38], plain(outer)[:24]),
            "not_ours",
        ),
    ]


def plain(outer: Address) -> bytes:
    if isinstance(outer, IPv4Address):
        return ipv4(OWN, outer, 6, bytes(60))
    return ipv6(OWN6, outer, 6, bytes(60))


MTUS = [
    *messages(OUTER, STRANGER, OWN),
    *messages(OUTER6, STRANGER6, OWN6),
    same("an MTU of 0, which says nothing", lately(OUTER, 0), "not_ours"),
    same("less than IPv6's least", lately(OUTER6, 1279), "not_ours"),
]


def of(prefix: str, cases: list[Case]) -> list[Case]:
    return [replace(case, description=f"{prefix}: {case.description}") for case in cases]


CASES = [
    *(case for name, pair in PAIRS.items() for case in of(name, each_pair(*pair))),
    *(case for name, pair in PAIRS.items() for case in of(name, traffic_classes(*pair))),
    *OTHERS,
    *SETUPS,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_verdict(shared_world: World, case: Case) -> None:
    check(shared_world, case)


@pytest.fixture(scope="module")
def told_world() -> Iterator[World]:
    """What it learns, stays: it is no other test's."""
    with closing(World()) as world:
        yield world


@pytest.mark.parametrize("case", MTUS, ids=lambda case: case.description)
def test_message(told_world: World, case: Case) -> None:
    check(told_world, case)


@pairs
def test_a_learnt_mtu_is_told_to_clients(
    world: World, vip: Address, port: int, outer: Address
) -> None:
    frame = of_length(1400, vip, port)
    assert world.run(frame).verdict == "unique"
    assert world.send(lately(outer, 1400)) == ["mtu_learnt"]
    outcome = world.run(frame)
    assert (outcome.verdict, outcome.out) == ("too_big", told(frame, 1400 - overhead(outer)))
    fitting = of_length(1400 - overhead(outer), vip, port)
    assert world.run(fitting).out == in_outer(one_hop_on(fitting), outer)


def test_a_learnt_mtu_is_forgotten(pins: PinDirectory) -> None:
    """After ten minutes; here, as if they had passed."""
    with closing(World(pins=pins)) as world, closing(Map.open_pinned(pins / "learnt_mtus")) as rows:
        frame = of_length(1400, VIP, w.TO_TUNNEL)
        world.send(lately(OUTER, 1400))
        assert world.send(frame) == ["too_big"]
        for key, value in rows.items():
            learnt = LearntMtu.from_buffer_copy(value)
            left = learnt.until_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            assert not learnt.mtu or 0 < left <= 600 * 10**9
            learnt.until_ns -= left
            rows.update(key, bytes(learnt))
        assert world.send(frame) == ["unique"]


def test_an_mtu_only_ever_gets_less(world: World) -> None:
    assert world.send(lately(OUTER, 1400), lately(OUTER, 1450), lately(OUTER, 1300)) == [
        "mtu_learnt",
        "not_ours",
        "mtu_learnt",
    ]
    frame = of_length(1400, VIP, w.TO_TUNNEL)
    assert world.run(frame).out == told(frame, 1280)


def test_what_is_learnt_belongs_to_the_address(world: World) -> None:
    """The slot becomes another host's."""
    world.send(lately(OUTER, 1400))
    world.kernel.set_host(w.TUNNEL, w.tunnelled(STRANGER, OUTER6))
    frame = of_length(1400, VIP, w.TO_TUNNEL)
    assert world.run(frame).out == in_outer(one_hop_on(frame), STRANGER)


def test_no_less_than_every_host_takes(world: World) -> None:
    world.send(lately(OUTER, 68))
    frame = of_length(576, VIP, w.TO_TUNNEL)
    assert world.run(frame).out == told(frame, 556)


def test_nothing_less_than_the_minimum_is_told_of_ipv6(world: World) -> None:
    """RFC 8201 4: nobody would believe it. What is no larger and does not fit, is lost."""
    world.kernel.set_host(w.TUNNEL, w.tunnelled(OUTER, OUTER6, 1300))
    frame = of_length(1400, VIP6, w.TO_TUNNEL)
    assert world.run(frame).out == told(frame, 1280)
    assert world.send(of_length(1280, VIP6, w.TO_TUNNEL)) == ["drop_too_big"]
    assert world.send(of_length(1260, VIP6, w.TO_TUNNEL)) == ["unique"]


@families
def test_a_path_of_unknown_mtu(world: World, vip: Address) -> None:
    world.kernel.set_host(w.TUNNEL, w.tunnelled(OUTER, OUTER6, 0))
    assert world.send(of_length(1500, vip, w.TO_TUNNEL)) == ["unique"]
    world.send(lately(OUTER, 1400), lately(OUTER6, 1400))
    assert world.send(of_length(1500, vip, w.TO_TUNNEL)) == ["too_big"]


def gso(size: int) -> bytes:
    """`struct __sk_buff`: only gso_size, at its place."""
    return bytes(176) + struct.pack("=I", size) + bytes(12)


@families
def test_gso_is_judged_by_its_segments(world: World, vip: Address) -> None:
    """One that fits gets as far as the kernel, which has no GSO packet for this test."""
    frame = of_length(3000, vip, w.TO_TUNNEL)
    headers, room = (40, 1480) if vip.version == 4 else (60, 1460)
    assert world.run(frame, gso(room - headers)).verdict == "drop_encapsulation"
    outcome = world.run(frame, gso(room - headers + 1))
    assert (outcome.verdict, outcome.out) == ("too_big", told(frame, room))


@families
def test_no_segment_is_larger_than_its_packet(world: World, vip: Address) -> None:
    """A sender may name any size of segments; the kernel then cuts nothing."""
    frame = segment(w.TO_TUNNEL, ACK, vip=vip)
    assert world.run(frame, gso(1500)).verdict == "drop_encapsulation"


def test_later_fragments_that_do_not_fit(world: World) -> None:
    """Nobody is told of those (RFC 1812 4.3.2.7)."""
    world.kernel.set_host(w.TUNNEL, w.tunnelled(OUTER, OUTER6, 1300))
    payload = udp(5000, w.TO_TUNNEL, bytes(4000))
    first, *_ = fragments4(CLIENT, VIP, 17, payload, 1000)
    later = ipv4(
        CLIENT, VIP, 17, payload[1000:2400], fragment=MORE_FRAGMENTS | 125, identification=7
    )
    assert world.send(w.ip_frame(first), w.ip_frame(later)) == ["unique", "drop_too_big"]


@pairs
def test_fragments_are_tunnelled_each(
    world: World, vip: Address, port: int, outer: Address
) -> None:
    datagram = udp(5000, port, bytes(2000))
    frames = {
        VIP: [w.ip_frame(part) for part in fragments4(CLIENT, VIP, 17, datagram, 1000)],
        VIP6: [w.ip6_frame(part) for part in fragments6(CLIENT6, VIP6, 17, datagram, 1000)],
    }
    for frame in frames[vip]:
        assert world.run(frame).out == in_outer(one_hop_on(frame), outer)


class Offloading:
    """At the far end of the LAN, with what is left to do to each packet: packet(7), virtio 5.1.6.

    Bytes 0 to 9: flags, GSO type, header length, GSO size, where the sum begins and lies.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        self._socket.bind(("wire", 3))
        self._socket.settimeout(10)

    def send(self, frame: bytes, gso_size: int = 0) -> None:
        """TCP without its checksum, and to be segmented if `gso_size` is given."""
        version = frame[14] >> 4
        start, kind = (34, 1) if version == 4 else (54, 4)
        fields = (1, kind if gso_size else 0, start + 20, gso_size, start, 16)
        self._socket.send(struct.pack("=BBHHHH", *fields) + frame)

    def receive(self) -> tuple[bytes, bytes]:
        while True:
            frame, (_, _, kind, _, _) = self._socket.recvfrom(65536)
            if kind != socket.PACKET_OUTGOING:
                return frame[:10], frame[10:]

    def close(self) -> None:
        self._socket.close()


@families
@pytest.mark.parametrize("gso_size", [0, 1460], ids=["checksum", "segments"])
def test_nothing_is_left_to_do_to_an_answer(
    kernel: DistributorKernel, wire: Wire, vip: Address, gso_size: int
) -> None:
    """The client's packet still lacked its checksum, or was still to be segmented."""
    kernel.set_host(w.A, w.tunnelled(OUTER, OUTER6))
    frame = of_length(4000 if gso_size else 1500, vip, w.SHARED)
    with closing(Offloading()) as far:
        far.send(frame, gso_size)
        assert far.receive() == (bytes(10), told(frame, 1480 if vip == VIP else 1460))
