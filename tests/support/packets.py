# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames, byte by byte (RFC 768, 791, 793, 826, 4443, 4861, 8200).

Fields can be given wrong values.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

BROADCAST = b"\xff" * 6
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
ATOMIC = bytes(6)
"""A fragment header of a packet that is whole: offset, flags and identification."""
MORE_FRAGMENTS, DONT_FRAGMENT = 0x2000, 0x4000


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ethernet(destination: bytes, source: bytes, type: int, payload: bytes) -> bytes:
    return destination + source + struct.pack("!H", type) + payload


def vlan(frame: bytes, tag: int = 100) -> bytes:
    return frame[:12] + struct.pack("!HH", 0x8100, tag) + frame[12:]


def ipv4(
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    options: bytes = b"",
    fragment: int = DONT_FRAGMENT,
    identification: int = 0x1234,
    tos: int = 0,
    version: int = 4,
    words: int | None = None,
    total: int | None = None,
    wrong_sum: int = 0,
) -> bytes:
    """`words`: the header length as stated; `total`: the packet length as stated."""
    words = 5 + len(options) // 4 if words is None else words
    total = 20 + len(options) + len(payload) if total is None else total
    fields = (version << 4 | words, tos, total, identification, fragment, ttl, protocol)
    head = struct.pack("!BBHHHBB", *fields)
    addresses = source.packed + destination.packed + options
    check = checksum(head + b"\0\0" + addresses) ^ wrong_sum
    return head + struct.pack("!H", check) + addresses + payload


def ipv6(
    source: IPv6Address,
    destination: IPv6Address,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    extensions: bytes = b"",
    first: int | None = None,
    version: int = 6,
    length: int | None = None,
) -> bytes:
    """`extensions`: headers before the payload, the first being of type `first`.

    `length`: the payload length as stated.
    """
    length = len(extensions) + len(payload) if length is None else length
    first = protocol if first is None else first
    head = struct.pack("!IHBB", version << 28 if version < 16 else version, length, first, ttl)
    return head + source.packed + destination.packed + extensions + payload


def extension(next: int, data: bytes) -> bytes:
    """An IPv6 extension header; `data` fills whole units of 8 bytes with the first two."""
    return bytes([next, (len(data) + 2) // 8 - 1]) + data


def chained(headers: Sequence[tuple[int, bytes]], protocol: int) -> tuple[int, bytes]:
    """The first header's type, and all of them, each naming the next; then `protocol`."""
    following = [type for type, _ in headers[1:]] + [protocol]
    raw = [extension(n, data) for n, (_, data) in zip(following, headers, strict=True)]
    return (headers[0][0] if headers else protocol), b"".join(raw)


def fragments4(
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int,
    payload: bytes,
    size: int,
    *,
    identification: int = 7,
    ttl: int = 64,
) -> list[bytes]:
    """The packet in pieces of `size` bytes of its payload, a multiple of 8 (RFC 791 3.2)."""
    return [
        ipv4(
            source,
            destination,
            protocol,
            payload[start : start + size],
            fragment=start // 8 | (MORE_FRAGMENTS if start + size < len(payload) else 0),
            identification=identification,
            ttl=ttl,
        )
        for start in range(0, len(payload), size)
    ]


def fragments6(
    source: IPv6Address,
    destination: IPv6Address,
    protocol: int,
    payload: bytes,
    size: int,
    *,
    identification: int = 7,
    ttl: int = 64,
) -> list[bytes]:
    """The same by a Fragment header in each (RFC 8200 4.5)."""
    packets = []
    for start in range(0, len(payload), size):
        offset = start | (start + size < len(payload))
        header = extension(protocol, struct.pack("!HI", offset, identification))
        piece = header + payload[start : start + size]
        packets.append(ipv6(source, destination, FRAGMENT, piece, ttl=ttl))
    return packets


def icmp(type: int, code: int, rest: bytes) -> bytes:
    """`rest`: all that comes after the checksum."""
    head = struct.pack("!BB", type, code)
    return head + struct.pack("!H", checksum(head + b"\0\0" + rest)) + rest


def icmpv6(
    source: IPv6Address, destination: IPv6Address, type: int, code: int, rest: bytes
) -> bytes:
    """`rest`: all that comes after the checksum."""
    head = struct.pack("!BB", type, code)
    pseudo = source.packed + destination.packed + struct.pack("!II", 4 + len(rest), 58)
    return head + struct.pack("!H", checksum(pseudo + head + b"\0\0" + rest)) + rest


def tcp(
    source: int,
    destination: int,
    flags: int = SYN,
    *,
    options: bytes = b"",
    words: int | None = None,
    data: bytes = b"",
) -> bytes:
    """Without a checksum: nothing on the way reads it. `words`: the header length as stated."""
    words = 5 + len(options) // 4 if words is None else words
    fields = (source, destination, 1000, 0, words << 4, flags, 65535, 0, 0)
    return struct.pack("!HHIIBBHHH", *fields) + options + data


def udp(source: int, destination: int, data: bytes = b"", length: int | None = None) -> bytes:
    length = 8 + len(data) if length is None else length
    return struct.pack("!HHHH", source, destination, length, 0) + data


def udp_between(
    client: IPv4Address | IPv6Address,
    server: IPv4Address | IPv6Address,
    source: int,
    destination: int,
    data: bytes,
) -> bytes:
    """With its checksum, for those that read it."""
    pseudo = client.packed + server.packed + struct.pack("!II", 8 + len(data), 17)
    blank = udp(source, destination, data)
    return blank[:6] + struct.pack("!H", checksum(pseudo + blank) or 0xFFFF) + data


def arp(
    operation: int,
    sender_mac: bytes,
    sender: IPv4Address,
    target: IPv4Address,
    *,
    target_mac: bytes = bytes(6),
    destination: bytes = BROADCAST,
    source: bytes | None = None,
    head: tuple[int, int, int, int] = (1, 0x0800, 6, 4),
) -> bytes:
    """`head`: hardware type, protocol type and the two lengths."""
    body = struct.pack("!HHBBH", *head, operation)
    body += sender_mac + sender.packed + target_mac + target.packed
    return ethernet(destination, source or sender_mac, 0x0806, body)


def one_hop_on(frame: bytes) -> bytes:
    """The frame with its TTL one less and, in IPv4, the header checksum computed anew."""
    if frame[12:14] == b"\x86\xdd":
        return frame[:21] + bytes([frame[21] - 1]) + frame[22:]
    end = 14 + (frame[14] & 0x0F) * 4
    head = bytearray(frame[14:end])
    head[8] -= 1
    head[10:12] = b"\0\0"
    head[10:12] = struct.pack("!H", checksum(bytes(head)))
    return frame[:14] + bytes(head) + frame[end:]
