# SPDX-License-Identifier: Apache-2.0
"""Frames of neighbour discovery (RFC 4861), byte by byte."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from tests.support.packets import ethernet, icmpv6, ipv6

SOLICITATION, ADVERTISEMENT = 135, 136
SOURCE_MAC, TARGET_MAC, NONCE = 1, 2, 14
ROUTER, SOLICITED, OVERRIDE = 0x80000000, 0x40000000, 0x20000000
ALL_NODES = IPv6Address("ff02::1")
NOBODY = IPv6Address("::")


def solicited_node(address: IPv6Address) -> IPv6Address:
    """RFC 4291 2.7.1."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


def group_mac(group: IPv6Address) -> bytes:
    """RFC 2464 7."""
    return b"\x33\x33" + group.packed[12:]


def option(type: int, data: bytes) -> bytes:
    return bytes([type, (len(data) + 2) // 8]) + data


def message(
    type: int,
    source_mac: bytes,
    source: IPv6Address,
    destination: IPv6Address,
    target: IPv6Address,
    *,
    options: bytes = b"",
    flags: int = 0,
    destination_mac: bytes | None = None,
    ttl: int = 255,
    code: int = 0,
    wrong_sum: int = 0,
) -> bytes:
    """A whole frame; to the MAC of the multicast group unless another is given."""
    rest = struct.pack("!I", flags) + target.packed + options
    body = bytearray(icmpv6(source, destination, type, code, rest))
    body[3] ^= wrong_sum
    packet = ipv6(source, destination, 58, bytes(body), ttl=ttl)
    return ethernet(destination_mac or group_mac(destination), source_mac, 0x86DD, packet)
