# SPDX-License-Identifier: Apache-2.0
"""To a target that is not on the LAN: in an outer packet, or its sender is told (ADR 14).

Silent about what routers tell of outer packets: to the model a path's MTU is the hop's. So no
draw contains such a message, and test_ipip has what is learnt from it.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from anyport.decide.rows import Family, Hop
from anyport.model.definition import Address
from tests.packet.reference.decision import Action, Decision
from tests.packet.reference.ip import (
    ETHERNET,
    IPV4,
    IPV4_FIXED,
    IPV6,
    IPV6_FIXED,
    Frame,
    Packet,
    one_hop_on,
)
from tests.packet.reference.transport import TCP
from tests.support.packets import checksum

TTL = 64
DONT_FRAGMENT = 0x4000
IN_OUTER = {Family.IPV4: 4, Family.IPV6: 41}
"""RFC 2003 3.1; RFC 4213 3.5 and RFC 2473 3: what is inside."""
TYPES = {4: IPV4, 6: IPV6}
LEAST_TOLD = {Family.IPV4: 1, Family.IPV6: 1280}
"""RFC 8200 5: no sender need believe less."""
LONGEST_ANSWER = {Family.IPV4: 576, Family.IPV6: 1280}
"""RFC 1812 4.3.2.3; RFC 4443 2.4 (c)."""
UDP_HEADER = ICMP_HEADER = 8
NETWORK_CONTROL = 0xC0
"""RFC 1812 4.3.2.5."""


def encapsulate(to: Decision, frame: Frame, packet: Packet, hop: Hop) -> Decision:
    """Or it does not fit. Where the packet's other fragments go does not depend on that."""
    if fits(frame, packet, hop):
        return replace(to, answer=in_outer(one_hop_on(frame.raw), packet, hop))
    mtu = told_mtu(frame, packet, hop)
    in_vain = to.verdict == "icmp_error" or packet.fragment.offset
    if mtu is None or in_vain or not is_one_host(packet.source):
        return replace(to, verdict="drop_too_big", action=Action.DROP)
    told = answer(frame, packet, mtu)
    return replace(to, verdict="too_big", action=Action.ANSWER, answer=told)


# ---- what fits ----


def overhead(hop: Hop) -> int:
    return IPV6_FIXED if isinstance(hop.address, IPv6Address) else IPV4_FIXED


def on_wire(frame: Frame, packet: Packet) -> int:
    """Bytes of the largest packet that it becomes: one segment's, if the kernel cuts it."""
    if not frame.gso_size:
        return packet.total
    transport = UDP_HEADER
    if packet.protocol == TCP:
        transport = (int.from_bytes(packet.payload[12:13]) >> 4) * 4
    headers = packet.total - len(packet.payload) + transport
    return min(packet.total, headers + frame.gso_size)


def fits(frame: Frame, packet: Packet, hop: Hop) -> bool:
    return not hop.mtu or on_wire(frame, packet) + overhead(hop) <= hop.mtu


def told_mtu(frame: Frame, packet: Packet, hop: Hop) -> int | None:
    """Of what does not fit; None: whoever believed it would send the same again."""
    mtu = max(hop.mtu - overhead(hop), LEAST_TOLD[packet.family])
    return mtu if on_wire(frame, packet) > mtu else None


def is_one_host(source: Address) -> bool:
    """RFC 1812 4.3.2.7 and 5.3.7; RFC 4443 2.4 (e.6)."""
    if isinstance(source, IPv6Address):
        return not (source.is_multicast or source.is_unspecified)
    return source.packed[0] not in (0, 127) and source.packed[0] < 224


# ---- bytes ----


def in_outer(raw: bytes, packet: Packet, hop: Hop) -> bytes:
    """The frame with the packet inside another. Padding stays behind, and is none of it."""
    assert hop.source is not None
    assert hop.address is not None
    head = ip_header(
        hop.source, hop.address, IN_OUTER[packet.family], packet.total, _traffic_class(raw)
    )
    type = TYPES[hop.address.version].to_bytes(2)
    return raw[: ETHERNET - 2] + type + head + raw[ETHERNET:]


def _traffic_class(raw: bytes) -> int:
    """DSCP and ECN: RFC 2983 3, RFC 6040 4.1. Of IPv6: between the version and the flow label."""
    if int.from_bytes(raw[12:14]) == IPV4:
        return raw[ETHERNET + 1]
    return int.from_bytes(raw[ETHERNET : ETHERNET + 2]) >> 4 & 0xFF


def ip_header(source: Address, to: Address, protocol: int, length: int, tos: int) -> bytes:
    """`length`: of what comes behind. Not to be fragmented, so it needs no identification."""
    addresses = source.packed + to.packed
    if isinstance(to, IPv6Address):
        return struct.pack("!IHBB", 6 << 28 | tos << 20, length, protocol, TTL) + addresses
    total = IPV4_FIXED + length
    head = struct.pack("!BBHHHBB", 0x45, tos, total, 0, DONT_FRAGMENT, TTL, protocol)
    return head + checksum(head + bytes(2) + addresses).to_bytes(2) + addresses


def answer(frame: Frame, packet: Packet, mtu: int) -> bytes:
    """From the VIP, and from its MAC, to where the packet came from."""
    most = LONGEST_ANSWER[packet.family] - ICMP_HEADER
    most -= IPV6_FIXED if packet.family is Family.IPV6 else IPV4_FIXED
    quoted = frame.packet[: min(packet.total, most)]
    if isinstance(packet.source, IPv4Address):
        protocol, tos, message = 1, NETWORK_CONTROL, _fragmentation_needed(mtu, quoted)
    else:
        protocol, tos, message = 58, 0, _packet_too_big(packet, mtu, quoted)
    head = ip_header(packet.destination, packet.source, protocol, len(message), tos)
    return frame.source + frame.destination + frame.raw[12:14] + head + message


def _fragmentation_needed(mtu: int, quoted: bytes) -> bytes:
    """RFC 792 with RFC 1191 4."""
    message = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted
    return message[:2] + checksum(message).to_bytes(2) + message[4:]


def _packet_too_big(packet: Packet, mtu: int, quoted: bytes) -> bytes:
    """RFC 4443 3.2, with the sum of 2.3."""
    message = struct.pack("!BBHI", 2, 0, 0, mtu) + quoted
    pseudo = packet.destination.packed + packet.source.packed
    pseudo += struct.pack("!II", len(message), 58)
    return message[:2] + checksum(pseudo + message).to_bytes(2) + message[4:]
