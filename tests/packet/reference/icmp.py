# SPDX-License-Identifier: Apache-2.0
"""ICMP (RFC 792) and ICMPv6 (RFC 4443) errors: the connection that one is about."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from anyport.decide.rows import Family
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.packet.reference.decision import dropped, passed
from tests.packet.reference.extensions import CutOffError, TooManyError, walk
from tests.packet.reference.ip import IPV4_FIXED, IPV6_FIXED, Packet
from tests.packet.reference.transport import TCP, UDP, Flow

ICMP = {Family.IPV4: 1, Family.IPV6: 58}
ERRORS = {
    Family.IPV4: {3, 11, 12},  # unreachable, time exceeded, parameter problem
    Family.IPV6: {1, 2, 3, 4},  # and too big
}
HEADER = 8


def read_error(packet: Packet) -> Flow:
    """The flow of the client whose answer is inside. Any other message is the local stack's."""
    if not packet.payload:
        raise dropped("drop_icmp")
    if packet.payload[0] not in ERRORS[packet.family]:
        raise passed("other_protocol")
    inside = packet.payload[HEADER:]
    opened = _open_ipv6(inside) if packet.family is Family.IPV6 else _open_ipv4(inside)
    if opened is None or opened[0] != packet.destination:  # the VIP sent it, or it is a lie
        raise dropped("drop_icmp")
    return _turned_round(*opened[1:])


def _turned_round(client: Address, protocol: int, payload: bytes) -> Flow:
    """Of the transport header, 4 bytes suffice: RFC 792 promises 8."""
    if protocol not in (TCP, UDP):
        raise passed("other_protocol")
    if len(payload) < 4:
        raise dropped("drop_icmp")
    port, client_port = struct.unpack_from("!HH", payload)
    return Flow(Protocol.TCP if protocol == TCP else Protocol.UDP, client, client_port, port)


Opened = tuple[Address, Address, int, bytes]
"""Source, destination, protocol, payload; the packet may be cut off, and its length be any."""


def _open_ipv4(raw: bytes) -> Opened | None:
    """None: not enough of it, or it does not begin with the ports."""
    if len(raw) < IPV4_FIXED:
        return None
    first, flags, protocol, source, destination = struct.unpack_from("!B5xHxBxx4s4s", raw)
    header, offset = (first & 0x0F) * 4, flags & 0x1FFF
    if first >> 4 != 4 or header < IPV4_FIXED or offset:
        return None
    return IPv4Address(source), IPv4Address(destination), protocol, raw[header:]


def _open_ipv6(raw: bytes) -> Opened | None:
    if len(raw) < IPV6_FIXED or raw[0] >> 4 != 6:
        return None
    try:
        protocol, payload, fragment = walk(raw[6], raw[IPV6_FIXED:])
    except (CutOffError, TooManyError):
        return None
    if fragment.offset:
        return None
    return IPv6Address(raw[8:24]), IPv6Address(raw[24:40]), protocol, payload
