# SPDX-License-Identifier: Apache-2.0
"""One packet in; its verdict, what the kernel does with it, and the exact bytes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from anyport.decide.rows import Hop, HostRow, RouteKind, RouteRow
from anyport.kernel.abi import Verdict
from anyport.model.definition import Address
from tests.packet import (
    test_extensions,
    test_fragments,
    test_icmp,
    test_ipip,
    test_ipv6,
    test_neighbours,
)
from tests.packet import world as w
from tests.packet.cases import OTHER_MAC, Case, check, dropped, fence, on, same
from tests.packet.world import (
    CLIENT,
    DROPPED,
    MAC,
    PASSED,
    REDIRECTED,
    ROUTER_MAC,
    VIP,
    VIP6,
    World,
)
from tests.support.packets import (
    ACK,
    BROADCAST,
    CWR,
    ECE,
    FIN,
    PSH,
    RST,
    SYN,
    URG,
    arp,
    ethernet,
    ipv4,
    one_hop_on,
    tcp,
    udp,
    vlan,
)

ELSEWHERE = IPv4Address("10.0.0.77")
NOBODY = IPv4Address("0.0.0.0")


def forwarded(frame: bytes) -> bytes:
    """As the host that announced the VIP sends it on."""
    return frame[:6] + OTHER_MAC + frame[12:]


def malformed(description: str, packet: bytes) -> Case:
    return dropped(description, w.ip_frame(packet))


def to_vip(protocol: int, payload: bytes, **fields: int | bytes) -> bytes:
    return ipv4(CLIENT, VIP, protocol, payload, **fields)  # type: ignore[arg-type]


SYN_TO_SHARED = tcp(5000, w.SHARED)
UDP_TO_SHARED = udp(5000, w.SHARED, b"question")
PROBE = arp(1, ROUTER_MAC, NOBODY, VIP)
REQUEST = arp(1, ROUTER_MAC, CLIENT, VIP)


def reply(asker: IPv4Address) -> bytes:
    return arp(2, MAC, VIP, asker, target_mac=ROUTER_MAC, destination=ROUTER_MAC, source=MAC)


NOT_OURS = [
    same("an unknown EtherType", ethernet(MAC, ROUTER_MAC, 0x88CC, bytes(46)), "not_ours"),
    same("an Ethernet header and no more", ethernet(MAC, ROUTER_MAC, 0x88CC, b""), "not_ours"),
    same("another address", w.ip_frame(ipv4(CLIENT, ELSEWHERE, 6, SYN_TO_SHARED)), "not_ours"),
    same("from the VIP", w.ip_frame(ipv4(VIP, CLIENT, 6, SYN_TO_SHARED)), "not_ours"),
    same("the VIP in a VLAN", vlan(w.segment(w.SHARED)), "not_ours"),
    same("the VIP in a VLAN in a VLAN", vlan(vlan(w.segment(w.SHARED))), "not_ours"),
    same("behind a tag that has only a priority", vlan(w.segment(w.SHARED), 0xE000), "not_ours"),
    same("no ARP, for all its type", ethernet(MAC, ROUTER_MAC, 0x0806, b""), "not_ours"),
    same("ARP for the VIP in a VLAN", vlan(REQUEST), "not_ours"),
    same(
        "the VIP, to another's MAC",
        w.ip_frame(to_vip(6, SYN_TO_SHARED), OTHER_MAC),
        "not_ours",
    ),
    same("the VIP, broadcast", w.ip_frame(to_vip(6, SYN_TO_SHARED), BROADCAST), "not_ours"),
]

ARP = [
    Case("ARP request", REQUEST, "arp_replied", REDIRECTED, reply(CLIENT)),
    Case("ARP probe, from 0.0.0.0", PROBE, "arp_replied", REDIRECTED, reply(NOBODY)),
    Case(
        "ARP request to our MAC",
        arp(1, ROUTER_MAC, CLIENT, VIP, destination=MAC),
        "arp_replied",
        REDIRECTED,
        reply(CLIENT),
    ),
    Case(
        "ARP request, padded",
        REQUEST + bytes(18),
        "arp_replied",
        REDIRECTED,
        reply(CLIENT) + bytes(18),
    ),
    same(
        "ARP request to another's MAC",
        arp(1, ROUTER_MAC, CLIENT, VIP, destination=OTHER_MAC),
        "not_ours",
    ),
    same("ARP request for another", arp(1, ROUTER_MAC, CLIENT, ELSEWHERE), "not_ours"),
    same("ARP reply of another", arp(2, ROUTER_MAC, CLIENT, VIP), "not_ours"),
    same("ARP of another operation", arp(8, ROUTER_MAC, CLIENT, VIP), "not_ours"),
    same("our gratuitous ARP request", arp(1, MAC, VIP, VIP), "arp_ignored"),
    same("our gratuitous ARP reply", arp(2, MAC, VIP, VIP), "arp_ignored"),
    same("another's gratuitous ARP request", arp(1, OTHER_MAC, VIP, VIP), "fenced"),
    same("another's gratuitous ARP reply", arp(2, OTHER_MAC, VIP, VIP), "fenced"),
    same("another asks in the VIP's name", arp(1, OTHER_MAC, VIP, ELSEWHERE), "fenced"),
    same(
        "another answers for the VIP",
        arp(2, OTHER_MAC, VIP, CLIENT, destination=ROUTER_MAC),
        "fenced",
    ),
    Case("ARP request while fenced", REQUEST, "arp_ignored", DROPPED, setup=fence),
    Case("ARP probe while fenced", PROBE, "arp_ignored", DROPPED, setup=fence),
    same(
        "ARP of another hardware",
        arp(1, ROUTER_MAC, CLIENT, VIP, head=(6, 0x0800, 6, 4)),
        "not_ours",
    ),
    same(
        "ARP of another protocol",
        arp(1, ROUTER_MAC, CLIENT, VIP, head=(1, 0x86DD, 6, 4)),
        "not_ours",
    ),
    same(
        "ARP of another hardware length",
        arp(1, ROUTER_MAC, CLIENT, VIP, head=(1, 0x0800, 8, 4)),
        "not_ours",
    ),
    same(
        "ARP of another protocol length",
        arp(1, ROUTER_MAC, CLIENT, VIP, head=(1, 0x0800, 6, 16)),
        "not_ours",
    ),
]

MALFORMED = [
    malformed("IP version 5", to_vip(6, SYN_TO_SHARED, version=5)),
    malformed("IP version 6", to_vip(6, SYN_TO_SHARED, version=6)),
    malformed("header length 0", to_vip(6, SYN_TO_SHARED, words=0)),
    malformed("header length 4 words", to_vip(6, SYN_TO_SHARED, words=4)),
    malformed("header length 4 words, and the rest fits", to_vip(17, udp(8, w.SHARED), words=4)),
    malformed("header longer than the packet", to_vip(6, SYN_TO_SHARED, words=15)),
    malformed("total length 0", to_vip(6, SYN_TO_SHARED, total=0)),
    malformed("total length below the header's", to_vip(6, SYN_TO_SHARED, total=19)),
    malformed("total length beyond the frame", to_vip(6, SYN_TO_SHARED, total=41)),
    malformed("no transport header", to_vip(6, b"")),
    malformed("half a TCP header", to_vip(6, SYN_TO_SHARED[:19])),
    malformed("TCP header beyond the total length", to_vip(6, SYN_TO_SHARED, total=39)),
    malformed("TCP header of 4 words", to_vip(6, tcp(5000, w.SHARED, words=4))),
    malformed("TCP header of 0 words", to_vip(6, tcp(5000, w.SHARED, words=0))),
    malformed("TCP options beyond the packet", to_vip(6, tcp(5000, w.SHARED, words=6))),
    malformed(
        "TCP options beyond the total length",
        to_vip(6, tcp(5000, w.SHARED, options=bytes(4)), total=40),
    ),
    malformed("half a UDP header", to_vip(17, UDP_TO_SHARED[:7])),
    malformed("UDP length below its header's", to_vip(17, udp(5000, w.SHARED, b"x", 7))),
    malformed("UDP length beyond the packet", to_vip(17, udp(5000, w.SHARED, b"x", 10))),
    Case(
        "malformed while fenced",
        w.ip_frame(to_vip(6, SYN_TO_SHARED, words=4)),
        "drop_fenced",
        DROPPED,
        setup=fence,
    ),
]


OTHER_PROTOCOLS = [
    same("ICMP echo", w.ip_frame(to_vip(1, bytes.fromhex("0800f7ff00000000"))), "other_protocol"),
    same("SCTP", w.ip_frame(to_vip(132, bytes(12))), "other_protocol"),
    same("a protocol without payload", w.ip_frame(to_vip(50, b"")), "other_protocol"),
    same("an authentication header", w.ip_frame(to_vip(51, bytes(24))), "other_protocol"),
    same("IPv4 in IPv4", w.ip_frame(to_vip(4, to_vip(6, SYN_TO_SHARED))), "other_protocol"),
    same("UDP-Lite", w.ip_frame(to_vip(136, UDP_TO_SHARED)), "other_protocol"),
    same("an IPv6 extension header", w.ip_frame(to_vip(60, UDP_TO_SHARED)), "other_protocol"),
]


def routed(vip: Address) -> list[Case]:
    def segment(port: int, flags: int = SYN, ttl: int = 64, data: bytes = b"") -> bytes:
        return w.segment(port, flags, vip=vip, ttl=ttl, data=data)

    def datagram(port: int, data: bytes = b"question") -> bytes:
        return w.datagram(port, vip=vip, data=data)

    return [
        on("SYN, shared port", segment(w.SHARED), "selected"),
        on("SYN with data (TCP Fast Open)", segment(w.SHARED, data=b"GET /"), "selected"),
        on("datagram, shared port", datagram(w.SHARED), "selected"),
        on("empty datagram", datagram(w.SHARED, b""), "selected"),
        on("SYN, one target", segment(w.ONLY_A), "selected"),
        on("SYN, fallback", segment(w.FALLBACK), "fallback"),
        on("datagram, fallback", datagram(w.FALLBACK), "fallback"),
        on("SYN, unique port", segment(w.UNIQUE), "unique"),
        on("not a SYN, unique port", segment(w.UNIQUE, ACK), "unique"),
        on("datagram, unique port", datagram(w.UNIQUE), "unique"),
        same("SYN, the target is here", segment(w.AT_HOME), "selected"),
        same("SYN, unique and here", segment(w.UNIQUE_HERE), "unique"),
        same("SYN, no route", segment(w.CLOSED), "no_route"),
        same("not a SYN, no route", segment(w.CLOSED, ACK), "no_route"),
        same("datagram, no route", datagram(w.CLOSED), "no_route"),
        same("SYN to port 0", segment(0), "no_route"),
        same("SYN to port 65535", segment(65535), "no_route"),
        on("ACK of nothing known", segment(w.SHARED, ACK), "hashed"),
        on("data of nothing known", segment(w.SHARED, ACK | PSH, data=b"x" * 100), "hashed"),
        on("SYN and ACK", segment(w.SHARED, SYN | ACK), "hashed"),
        on("SYN and FIN", segment(w.SHARED, SYN | FIN), "hashed"),
        on("SYN and RST", segment(w.SHARED, SYN | RST), "hashed"),
        on("RST of nothing known", segment(w.SHARED, RST), "hashed"),
        on("no flags at all (null)", segment(w.SHARED, 0), "hashed"),
        on("FIN, PSH and URG (xmas)", segment(w.SHARED, FIN | PSH | URG), "hashed"),
        on("all flags", segment(w.SHARED, 0xFF), "hashed"),
        on("FIN of nothing known", segment(w.SHARED, FIN), "hashed"),
        on("SYN and FIN, unique port", segment(w.UNIQUE, SYN | FIN), "unique"),
        on("RST, unique port", segment(w.UNIQUE, RST), "unique"),
        same("RST, no route", segment(w.CLOSED, RST), "no_route"),
        same("SYN and ACK, no route", segment(w.CLOSED, SYN | ACK), "no_route"),
        on("SYN that offers ECN (RFC 3168)", segment(w.SHARED, SYN | ECE | CWR), "selected"),
        on("SYN, PSH and URG", segment(w.SHARED, SYN | PSH | URG), "selected"),
        on("data and CWR", segment(w.SHARED, ACK | PSH | CWR, data=b"x"), "hashed"),
        on("not a SYN, fallback", segment(w.FALLBACK, ACK), "hashed"),
        same("not a SYN, the target is here", segment(w.AT_HOME, ACK), "hashed"),
        on("a full frame", segment(w.SHARED, ACK, data=b"x" * 1440), "hashed"),
        on("padded to the Ethernet minimum", segment(w.SHARED) + bytes(6), "selected"),
        spent("TTL 1", segment(w.SHARED, ttl=1)),
        spent("TTL 0", segment(w.SHARED, ttl=0)),
        spent("TTL 1, unique port", segment(w.UNIQUE, ttl=1)),
        spent("TTL 1, of nothing known", segment(w.SHARED, ACK, ttl=1)),
        on("TTL 2", segment(w.SHARED, ttl=2), "selected"),
        on("TTL 255", segment(w.SHARED, ttl=255), "selected"),
        same("TTL 1, the target is here", segment(w.AT_HOME, ttl=1), "selected"),
        same("TTL 1, no route", segment(w.CLOSED, ttl=1), "no_route"),
        dropped("no path to the host", segment(w.TO_NO_PATH), "drop_no_path"),
        Case(
            "a path of a later version",
            segment(w.UNIQUE),
            "drop_table",
            DROPPED,
            setup=lambda world: world.kernel.set_host(w.B, LATER),
        ),
        # From clients: they send again, to whoever announced the VIP.
        Case("SYN while fenced", segment(w.SHARED), "drop_fenced", DROPPED, setup=fence),
        Case("unique port while fenced", segment(w.UNIQUE), "drop_fenced", DROPPED, setup=fence),
        Case(
            "forwarded here by the announcer: this host is one of its targets",
            forwarded(segment(w.SHARED)),
            "fenced",
            PASSED,
            setup=fence,
        ),
    ]


LATER = HostRow(Hop(VIP, 4, 1), Hop(VIP, 4, 1), 100)
"""Both hops by a path that has no name yet."""


def spent(description: str, frame: bytes) -> Case:
    return Case(description, frame, "drop_ttl", DROPPED)


def of_family(prefix: str, cases: list[Case]) -> list[Case]:
    return [replace(case, description=f"{prefix}: {case.description}") for case in cases]


ROUTED = [*of_family("IPv4", routed(VIP)), *of_family("IPv6", routed(VIP6))]

RECORD_ROUTE = bytes.fromhex("0707040000000001")
LOOSE_SOURCE_ROUTE = bytes.fromhex("830704c0a8070101")
ROUTER_ALERT = bytes.fromhex("94040000")
CUT_OFF_OPTION = bytes.fromhex("01010144")

OPTIONS = [
    on("to be recorded", w.segment(w.SHARED, options=RECORD_ROUTE), "selected"),
    on("to be routed on", w.segment(w.SHARED, options=LOOSE_SOURCE_ROUTE), "selected"),
    on("router alert", w.segment(w.SHARED, options=ROUTER_ALERT), "selected"),
    on("an option that is cut off", w.segment(w.SHARED, options=CUT_OFF_OPTION), "selected"),
    on("options, unique port", w.segment(w.UNIQUE, options=ROUTER_ALERT), "unique"),
    same("options, no route", w.segment(w.CLOSED, options=ROUTER_ALERT), "no_route"),
    on("IP options", w.segment(w.SHARED, options=b"\x01" * 4), "selected"),
    on("the longest IP options", w.segment(w.SHARED, options=b"\x01" * 40), "selected"),
    on(
        "the longest options of both",
        w.ip_frame(to_vip(6, tcp(5000, w.SHARED, options=b"\x01" * 40), options=b"\x01" * 40)),
        "selected",
    ),
    on(
        "UDP after the longest IP options",
        w.ip_frame(to_vip(17, UDP_TO_SHARED, options=b"\x01" * 40)),
        "selected",
    ),
]


def inconsistent(description: str, frame: bytes, setup: Callable[[World], object]) -> Case:
    return Case(description, frame, "drop_table", DROPPED, setup=setup)


TABLES = [
    Case("an empty selection", w.segment(w.TO_EMPTY_TABLE), "drop_table", DROPPED),
    Case("an empty selection, no SYN", w.segment(w.TO_EMPTY_TABLE, ACK), "drop_table", DROPPED),
    Case("a selection beyond the last", w.segment(w.TO_ABSENT_TABLE), "drop_table", DROPPED),
    Case("a host beyond the last", w.segment(w.TO_ABSENT_HOST), "drop_table", DROPPED),
    Case("a fallback to nobody", w.segment(w.FALLBACK_TO_NONE), "drop_table", DROPPED),
    inconsistent(
        "a selection that names no host",
        w.segment(w.ONLY_A),
        lambda world: world.kernel.set_selection(1, 0, [64]),
    ),
    inconsistent(
        "an empty selection by turns",
        w.segment(w.TURNS),
        lambda world: world.kernel.set_selection(2, 1, []),
    ),
    inconsistent(
        "a VIP without a port table",
        w.segment(w.SHARED),
        lambda world: world.kernel.clear_routes(0),
    ),
    inconsistent(
        "a VIP of another row",
        w.segment(w.SHARED),
        lambda world: world.kernel.set_vip(VIP, 15, MAC),
    ),
    Case(
        "a VIP that is taken away",
        w.segment(w.SHARED),
        "not_ours",
        PASSED,
        setup=lambda world: world.kernel.delete_vip(VIP),
    ),
    Case(
        "another route kind than any known",
        w.segment(w.SHARED),
        "drop_table",
        DROPPED,
        setup=lambda world: world.route(w.SHARED, RouteRow(9, 4095, 0)),
    ),
    Case(
        "a route of the other protocol",
        w.datagram(w.CLOSED),
        "no_route",
        PASSED,
        setup=lambda world: world.route(w.CLOSED, RouteRow(RouteKind.UNIQUE, w.A, 2)),
    ),
]

FENCED = [
    Case(
        "a fragment while fenced",
        w.ip_frame(to_vip(17, bytes(5), fragment=2)),
        "drop_fenced",
        DROPPED,
        setup=fence,
    ),
]

CASES = [
    *NOT_OURS,
    *ARP,
    *MALFORMED,
    *OTHER_PROTOCOLS,
    *ROUTED,
    *OPTIONS,
    *TABLES,
    *FENCED,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_verdict(shared_world: World, case: Case) -> None:
    check(shared_world, case)


@pytest.mark.parametrize("payload", [SYN_TO_SHARED, UDP_TO_SHARED], ids=["tcp", "udp"])
def test_cut_off_at_each_byte(world: World, payload: bytes) -> None:
    """Cut off anywhere: dropped as malformed, whether or not the total length admits it."""
    protocol = 6 if payload is SYN_TO_SHARED else 17
    needed = 40 if protocol == 6 else 36
    frame = w.ip_frame(to_vip(protocol, payload, options=b"\x01" * 8))
    for length in range(34, len(frame)):
        assert world.send(frame[:length]) == ["drop_malformed"], length
    for length in range(28, needed):
        admitted = w.ip_frame(to_vip(protocol, payload, options=b"\x01" * 8, total=length))
        assert world.send(admitted[: 14 + length]) == ["drop_malformed"], length


def test_arp_cut_off_at_each_byte(world: World) -> None:
    for length in range(14, len(REQUEST)):
        assert world.run(REQUEST[:length]).verdict == "not_ours", length


@pytest.mark.parametrize("ttl", range(2, 256, 11))
def test_checksum_after_ttl(world: World, ttl: int) -> None:
    """RFC 1624: also where the sum wraps. The identification walks through all sums."""
    for identification in range(0, 65536, 2521):
        packet = to_vip(6, SYN_TO_SHARED, ttl=ttl, identification=identification)
        frame = w.ip_frame(packet)
        assert world.run(frame).out == one_hop_on(frame)


@pytest.mark.parametrize("vip", w.VIPS, ids=["ipv4", "ipv6"])
def test_put_together_beyond_what_a_length_can_say(shared_world: World, vip: Address) -> None:
    """BIG TCP states 0; in a packet that is none, 0 is not possible."""
    frame = bytearray(w.segment(w.SHARED, ACK, vip=vip, data=bytes(1400)))
    start = 16 if vip == VIP else 18
    frame[start : start + 2] = bytes(2)
    shared_world.forget()
    assert shared_world.run(bytes(frame)).verdict == "drop_malformed"
    outcome = shared_world.run(bytes(frame), w.GSO)
    assert (outcome.verdict, outcome.action) == ("hashed", REDIRECTED)


def test_wrong_checksum_is_not_repaired(world: World) -> None:
    """What came in broken goes out broken, so that the target's stack drops it."""
    frame = w.ip_frame(to_vip(6, SYN_TO_SHARED, wrong_sum=0x0100))
    out = world.run(frame).out
    assert out != one_hop_on(frame)
    assert out[:24] + out[26:] == one_hop_on(frame)[:24] + one_hop_on(frame)[26:]


def test_each_verdict_has_a_case() -> None:
    tables = (
        CASES,
        test_extensions.CASES,
        test_fragments.CASES,
        test_icmp.CASES,
        test_ipip.CASES,
        test_ipip.MTUS,
        test_ipv6.CASES,
        test_neighbours.CASES,
    )
    seen = {case.verdict for cases in tables for case in cases}
    in_sequence = {
        "established",
        "fragment",
        "fragments_released",
        "distributed",
        "table_full",
        "drop_encapsulation",
        "drop_gathering",
        "absent",
    }
    assert seen | in_sequence == {verdict.name.lower() for verdict in Verdict}
