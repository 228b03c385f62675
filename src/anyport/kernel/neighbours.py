# SPDX-License-Identifier: Apache-2.0
"""A VIP among the machines of the LAN, of either family: who has it, and saying that we do."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address

from anyport.errors import KernelError
from anyport.kernel import arp, ndp
from anyport.kernel.netlink import Interface
from anyport.model.definition import Address


async def probe(address: Address, interface: Interface) -> bytes | None:
    """The MAC of another machine that has `address`; None: nobody said so. Raises KernelError."""
    if isinstance(address, IPv6Address):
        return await ndp.probe(address, interface)
    return await arp.probe(address, interface)


def announce(vip: Address, interface: Interface) -> None:
    """Once: the VIP is at this interface from now on, whoever had it before.

    IPv4: gratuitous ARP as a request (RFC 5227 2.3) and, as some neighbours
    update their cache only on one, as a reply. IPv6: an unsolicited neighbour
    advertisement. Say it again some times: nothing confirms it. Raises KernelError.
    """
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((interface.name, 0))
            for frame in _frames(vip, interface.mac):
                wire.send(frame)
    except OSError as error:
        raise KernelError(f"announcing {vip} on {interface.name}", error.errno or 0) from None


def _frames(vip: Address, mac: bytes) -> tuple[bytes, ...]:
    if isinstance(vip, IPv6Address):
        return (ndp.advertisement(mac, vip),)
    return tuple(
        arp.frame(operation, mac, vip.packed, target, vip.packed)
        for operation, target in ((arp.REQUEST, bytes(6)), (arp.REPLY, mac))
    )
