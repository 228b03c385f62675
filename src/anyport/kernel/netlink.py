# SPDX-License-Identifier: Apache-2.0
"""Interfaces and addresses of this network namespace, and announcing a VIP on the LAN.

The VIP is a /32 (IPv6: /128) on `lo`: every host accepts its packets, and none
answers ARP for it from there (see anyport.kernel.sysctl); rtnetlink(7), packet(7).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from anyport.errors import KernelError
from anyport.kernel import arp
from anyport.model.definition import Address

_LO = 1  # loopback is the first interface of every network namespace
_LABEL = "lo:anyport"  # tells our VIPs on `lo` from other people's; `ip address` shows it
_UP = 0x1 | 0x10000  # IFF_UP, IFF_LOWER_UP

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Interface:
    """`mac` is its 6 bytes; `addresses` are those set on it.

    `networks`: those that they are in and that have other addresses than hosts'.
    `up`: administratively, and it has a carrier.
    """

    name: str
    index: int
    mac: bytes
    addresses: frozenset[Address]
    networks: frozenset[Network] = frozenset()
    up: bool = True


async def interface(name: str) -> Interface:
    """Raises KernelError (ENODEV) that lists the interfaces there are."""
    async with _netlink(f"interface {name}") as netlink:
        links = {link.get("ifname"): link async for link in await netlink.link("dump")}
        if name not in links:
            raise KernelError(f"interface {name!r}; there are {_words(links)}", errno.ENODEV)
        index = links[name]["index"]
        found = [a async for a in await netlink.addr("dump", index=index)]
    mac = bytes.fromhex((links[name].get("address") or "").replace(":", ""))
    addresses = frozenset(map(_address, found))
    up = links[name]["flags"] & _UP == _UP
    return Interface(name, index, mac, addresses, frozenset(_networks(found)), up)


async def add_vip(vip: Address) -> bool:
    """Puts the VIP on `lo`. False: it was there, and is adopted. Raises KernelError."""
    return await _change("add", vip, settled=errno.EEXIST)


async def delete_vip(vip: Address) -> bool:
    """Takes the VIP off `lo`, which ends its connections. False: it was absent."""
    return await _change("del", vip, settled=errno.EADDRNOTAVAIL)


async def vips_on_lo() -> frozenset[Address]:
    """Those that `add_vip` put there, in whatever life of the daemon."""
    async with _netlink("addresses of lo") as netlink:
        entries = [a async for a in await netlink.addr("dump", index=_LO)]
    return frozenset(_address(a) for a in entries if a.get("label") == _LABEL)


async def address_owner(address: Address) -> str | None:
    """The interface that has `address`; None if none does. `lo` only if no other has it too."""
    async with _netlink(f"owner of {address}") as netlink:
        owners = {a["index"] async for a in await netlink.addr("dump") if _address(a) == address}
        if not owners:
            return None
        [link] = await netlink.link("get", index=max(owners))  # `lo` has the lowest index
    return str(link.get("ifname"))


def announce(vip: Address, interface: Interface) -> None:
    """One gratuitous ARP in each form: the VIP is at this interface from now on.

    RFC 5227 2.3 announces with a request; some neighbours update their cache
    only on a reply, so that goes out too. Say it again some times: nothing
    confirms it. Raises KernelError.
    """
    if vip.version != 4:
        raise KernelError(f"announcing {vip}: IPv4 only")
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((interface.name, 0))
            for operation, target in ((arp.REQUEST, bytes(6)), (arp.REPLY, interface.mac)):
                wire.send(arp.frame(operation, interface.mac, vip.packed, target, vip.packed))
    except OSError as error:
        raise KernelError(f"announcing {vip} on {interface.name}", error.errno or 0) from None


@contextlib.asynccontextmanager
async def _netlink(what: str) -> AsyncIterator[Any]:
    """A netlink socket; what the kernel refuses within becomes a KernelError."""
    try:
        async with AsyncIPRoute() as netlink:  # type: ignore[no-untyped-call]
            yield netlink
    except NetlinkError as error:
        raise KernelError(what, error.code) from None


async def _change(command: str, vip: Address, settled: int) -> bool:
    address: dict[str, Any] = {"address": str(vip), "prefixlen": vip.max_prefixlen}
    if vip.version == 4:  # IPv6 has no labels
        address["label"] = _LABEL
    try:
        async with _netlink(f"{command} {vip} on lo") as netlink:
            await netlink.addr(command, index=_LO, **address)
    except KernelError as error:
        if error.errno != settled:
            raise
        return False
    return True


def _address(entry: Any) -> Address:
    """IFA_LOCAL where there is one: IFA_ADDRESS is then the peer's."""
    return ip_address(entry.get("local") or entry.get("address"))


def _networks(entries: Iterable[Any]) -> Iterator[Network]:
    """Two addresses of a network are nobody's, unless it has no more than two (RFC 3021)."""
    for entry in entries:
        network = ip_network((entry.get("address"), entry["prefixlen"]), strict=False)
        if network.num_addresses > 2:
            yield network


def _words(names: Any) -> str:
    return ", ".join(sorted(map(str, names)))
