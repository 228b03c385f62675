# SPDX-License-Identifier: Apache-2.0
"""Neighbour discovery on the LAN (RFC 4861, RFC 4862, packet(7)): who has an IPv6 address, saying
that we do, and hearing who asks. Whoever asks is answered by distribute.bpf.c."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address

from anyport.errors import KernelError
from anyport.kernel.asking import ask
from anyport.kernel.netlink import Interface

ETH_P_IPV6 = 0x86DD
SOLICITATION, ADVERTISEMENT = 135, 136  # RFC 4861 4.3, 4.4
_OVERRIDE = 0x20000000
_TARGET_LINK_LAYER_ADDRESS = 2  # RFC 4861 4.6.1
_ALL_NODES, _NOBODY = IPv6Address("ff02::1"), IPv6Address(0)
_HOP_LIMIT = 255  # with any other nobody believes it: a router was in between (RFC 4861 7.1)
_SHORTEST = 14 + 40 + 24  # Ethernet, IPv6, and an advertisement without options


def solicited_node(address: IPv6Address) -> IPv6Address:
    """ff02::1:ff and the last three bytes of the address (RFC 4291 2.7.1)."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


def advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """A frame to all nodes, unsolicited and overriding what they know (RFC 4861 7.2.6)."""
    option = struct.pack("!BB", _TARGET_LINK_LAYER_ADDRESS, 1) + mac
    return _frame(mac, address, _ALL_NODES, ADVERTISEMENT, _OVERRIDE, address.packed + option)


def solicitation(mac: bytes, address: IPv6Address) -> bytes:
    """A frame that asks for `address` in nobody's name: no neighbour learns anything from it."""
    return _frame(mac, _NOBODY, solicited_node(address), SOLICITATION, 0, address.packed)


async def probe(address: IPv6Address, interface: Interface) -> bytes | None:
    """The MAC of another machine that has `address`; None: nobody said so (RFC 4862, 5.4).

    Raises KernelError.
    """
    question = solicitation(interface.mac, address)
    return await ask("NDP", ETH_P_IPV6, question, _advertised, address, interface)


def hear_solicitations(address: IPv6Address, interface: Interface) -> socket.socket:
    """While the returned socket is open, neighbour solicitations for the address come in.

    They go to a multicast group that the kernel joins only on the interface
    that has the address, which for a VIP is `lo`; without it the NIC's filter,
    and switches that snoop on MLD, keep them away. Raises KernelError.
    """
    group = solicited_node(address).packed + struct.pack("=I", interface.index)
    member = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    except OSError as error:
        member.close()
        what = f"solicitations for {address} on {interface.name}"
        raise KernelError(what, error.errno or 0) from None
    return member


def _advertised(received: bytes) -> tuple[bytes, IPv6Address | None]:
    """MAC and target of a neighbour advertisement; no target for any other frame."""
    if len(received) < _SHORTEST or received[20] != socket.IPPROTO_ICMPV6:
        return b"", None
    target = IPv6Address(received[62:78]) if received[54] == ADVERTISEMENT else None
    return received[6:12], target


def _frame(
    mac: bytes, source: IPv6Address, group: IPv6Address, kind: int, flags: int, rest: bytes
) -> bytes:
    addresses = source.packed + group.packed
    body = struct.pack("!I", flags) + rest
    pseudo = addresses + struct.pack("!II", 4 + len(body), socket.IPPROTO_ICMPV6)
    check = _checksum(pseudo + struct.pack("!BBH", kind, 0, 0) + body)
    message = struct.pack("!BBH", kind, 0, check) + body
    ip = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, _HOP_LIMIT)
    ethernet = b"\x33\x33" + group.packed[12:] + mac + struct.pack("!H", ETH_P_IPV6)
    return ethernet + ip + addresses + message


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
