# SPDX-License-Identifier: Apache-2.0
"""Ethernet (RFC 894, 2464), IPv4 (RFC 791) and IPv6 (RFC 8200): the fixed headers."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from anyport.decide.rows import Family
from anyport.model.definition import Address
from tests.packet.reference.decision import dropped

ETHERNET = 14
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
IPV4_FIXED, IPV6_FIXED = 20, 40


@dataclass(frozen=True)
class Frame:
    raw: bytes
    gso_size: int = 0
    """Several packets of one flow, put together by the kernel: bytes of data in each; 0: one."""

    @property
    def destination(self) -> bytes:
        return self.raw[:6]

    @property
    def source(self) -> bytes:
        return self.raw[6:12]

    @property
    def type(self) -> int:
        """A VLAN's is 0x8100 (802.1Q): of no interest here."""
        return int.from_bytes(self.raw[12:14])

    @property
    def packet(self) -> bytes:
        """With padding, if any."""
        return self.raw[ETHERNET:]


@dataclass(frozen=True)
class Fragment:
    """Which part of a packet: RFC 791 3.2, RFC 8200 4.5. `offset` in 8 bytes."""

    offset: int
    more: bool
    identification: int

    @property
    def is_part(self) -> bool:
        return bool(self.offset or self.more)


WHOLE = Fragment(0, False, 0)


@dataclass(frozen=True)
class Packet:
    family: Family
    version: int
    source: Address
    destination: Address
    ttl: int
    protocol: int
    """Of what `payload` begins with."""
    header: int
    """Bytes, as stated."""
    total: int
    """Bytes with the header, as stated."""
    fragment: Fragment = WHOLE
    payload: bytes = b""
    """Behind the headers, up to the stated end; empty until sound() has been asked."""


def read_ip(frame: Frame) -> Packet | None:
    """None: no IP packet, or not even its fixed header."""
    if frame.type == IPV4 and len(frame.packet) >= IPV4_FIXED:
        return read_ipv4(frame)
    if frame.type == IPV6 and len(frame.packet) >= IPV6_FIXED:
        return read_ipv6(frame)
    return None


def read_ipv4(frame: Frame) -> Packet:
    fields = struct.unpack_from("!BxHHHBBxx4s4s", frame.packet)
    first, total, identification, flags, ttl, protocol, source, destination = fields
    return Packet(
        Family.IPV4,
        first >> 4,
        IPv4Address(source),
        IPv4Address(destination),
        ttl,
        protocol,
        (first & 0x0F) * 4,
        _length(frame, total, 0),
        Fragment(flags & 0x1FFF, bool(flags & 0x2000), identification),
    )


def read_ipv6(frame: Frame) -> Packet:
    first, length, next_header, hop_limit, source, destination = struct.unpack_from(
        "!BxxxHBB16s16s", frame.packet
    )
    return Packet(
        Family.IPV6,
        first >> 4,
        IPv6Address(source),
        IPv6Address(destination),
        hop_limit,
        next_header,
        IPV6_FIXED,
        _length(frame, length, IPV6_FIXED),
    )


def _length(frame: Frame, stated: int, fixed: int) -> int:
    """BIG TCP: a GSO packet beyond 64 KiB cannot state its length, and states 0."""
    return len(frame.packet) if frame.gso_size and not stated else fixed + stated


def is_mapped(address: Address) -> bool:
    """::ffff:a.b.c.d never travels: RFC 4291 2.5.5.2, RFC 4942 2.2."""
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None


def sound(frame: Frame, packet: Packet) -> Packet:
    """With its payload. bpf/README.md, 4: lengths that cannot be are dropped."""
    possible = packet.header <= packet.total <= len(frame.packet)
    if packet.family is Family.IPV4:
        possible &= packet.version == 4 and packet.header >= IPV4_FIXED
    else:
        possible &= packet.version == 6 and not is_mapped(packet.source)
    if not possible:
        raise dropped("drop_malformed")
    return replace(packet, payload=frame.packet[packet.header : packet.total])


def one_hop_on(frame: bytes) -> bytes:
    """RFC 791 3.2, RFC 8200 3; the sum of IPv4 by RFC 1624, so a wrong one stays wrong."""
    out = bytearray(frame)
    if frame[12:14] == b"\x86\xdd":
        out[ETHERNET + 7] -= 1
        return bytes(out)
    before, check = struct.unpack_from("!HH", out, ETHERNET + 8)
    out[ETHERNET + 8] -= 1
    (after,) = struct.unpack_from("!H", out, ETHERNET + 8)
    total = (check ^ 0xFFFF) + (before ^ 0xFFFF) + after
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", out, ETHERNET + 10, total ^ 0xFFFF)
    return bytes(out)
