# SPDX-License-Identifier: Apache-2.0
"""ARP on the LAN (RFC 826, RFC 5227, packet(7)): who has an address, and saying that we do."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from anyport.kernel.asking import ask
from anyport.kernel.netlink import Interface
from anyport.model.definition import Address

REQUEST, REPLY = 1, 2  # RFC 826, ar$op
ETH_P_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_NOBODY = bytes(4)
_FIXED = struct.pack("!HHBB", 1, 0x0800, 6, 4)  # Ethernet, IPv4 and their lengths


def frame(operation: int, mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    """An Ethernet broadcast; `sender` and `target` are packed IPv4 addresses."""
    ethernet = _BROADCAST + mac + struct.pack("!H", ETH_P_ARP)
    fixed = _FIXED + struct.pack("!H", operation)
    return ethernet + fixed + mac + sender + target_mac + target


async def probe(address: Address, interface: Interface) -> bytes | None:
    """The MAC of another machine that has `address`; None: nobody said so (RFC 5227, 2.1.1).

    A probe's sender address is empty, so that no neighbour learns anything
    from it. Raises KernelError.
    """
    question = frame(REQUEST, interface.mac, _NOBODY, bytes(6), address.packed)
    return await ask("ARP", ETH_P_ARP, question, _sender, address, interface)


def _sender(received: bytes) -> tuple[bytes, IPv4Address | None]:
    """Hardware and protocol address of an ARP packet's sender, request or reply alike."""
    if len(received) < 42 or received[14:20] != _FIXED:
        return b"", None
    return received[22:28], IPv4Address(received[28:32])
