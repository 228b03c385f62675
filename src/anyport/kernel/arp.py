# SPDX-License-Identifier: Apache-2.0
"""ARP on the LAN (RFC 826, RFC 5227, packet(7)): who has an address, and saying that we do."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from anyport.errors import KernelError
from anyport.model.definition import Address

if TYPE_CHECKING:
    from anyport.kernel.netlink import Interface

PROBES = 3
PROBE_SECONDS = 0.15
"""Of waiting after each. RFC 5227 waits longer, for links that come up only now; ours is up."""

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
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK) as wire:
            wire.bind((interface.name, ETH_P_ARP))
            for _ in range(PROBES):
                wire.send(question)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_SECONDS):
                        return await _answer(wire, address, interface.mac)
    except OSError as error:
        raise KernelError(f"ARP on {interface.name}", error.errno or 0) from None
    return None


async def _answer(wire: socket.socket, address: Address, own: bytes) -> bytes:
    while True:
        received = await asyncio.get_running_loop().sock_recv(wire, 128)
        mac, holder = _sender(received)
        if holder == address and mac != own:
            return mac


def _sender(received: bytes) -> tuple[bytes, IPv4Address | None]:
    """Hardware and protocol address of an ARP packet's sender, request or reply alike."""
    if len(received) < 42 or received[14:20] != _FIXED:
        return b"", None
    return received[22:28], IPv4Address(received[28:32])
