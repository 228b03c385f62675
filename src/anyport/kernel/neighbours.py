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


class Announcer:
    """Says that VIPs are at an interface, for as long as the process lives.

    By one socket: to close one takes some 10 ms, in which the kernel waits for
    all who may still send by it, and a distributor announces all its VIPs again
    and again.
    """

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._wire: socket.socket | None = None

    def announce(self, vip: Address) -> None:
        """Once: the VIP is here from now on, whoever had it before.

        IPv4: gratuitous ARP as a request (RFC 5227 2.3) and, as some neighbours
        update their cache only on one, as a reply. IPv6: an unsolicited neighbour
        advertisement. Say it again some times: nothing confirms it. Raises KernelError,
        also when the interface takes no more for now.
        """
        name = self._interface.name
        try:
            if self._wire is None:  # of no protocol: nothing that comes in is queued there
                self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            for frame in _frames(vip, self._interface.mac):
                self._wire.sendto(frame, socket.MSG_DONTWAIT, (name, 0))
        except OSError as error:
            raise KernelError(f"announcing {vip} on {name}", error.errno or 0) from None


def _frames(vip: Address, mac: bytes) -> tuple[bytes, ...]:
    if isinstance(vip, IPv6Address):
        return (ndp.advertisement(mac, vip),)
    return tuple(
        arp.frame(operation, mac, vip.packed, target, vip.packed)
        for operation, target in ((arp.REQUEST, bytes(6)), (arp.REPLY, mac))
    )
