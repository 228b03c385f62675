# SPDX-License-Identifier: Apache-2.0
"""Interfaces and addresses of this network namespace; rtnetlink(7).

The VIP is a /32 (IPv6: /128) on `lo`: every host accepts its packets, and none
answers ARP for it from there (see anyport.kernel.sysctl), nor neighbour
solicitations, which the kernel answers for the receiving interface's own
addresses only.
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
from anyport.model.definition import Address

_LO = 1  # loopback is the first interface of every network namespace
# What tells our VIPs on `lo` from other people's; `ip address` shows it. IPv6 has no labels, but
# a number for who added an address (IFA_PROTO, Linux 5.18).
_LABEL = "lo:anyport"
_ADDED_BY = 0x61
_IFA_F_NODAD = 0x02  # <linux/if_addr.h>
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
    async with opened(f"interface {name}") as netlink:
        links = {link.get("ifname"): link async for link in await netlink.link("dump")}
        if name not in links:
            raise KernelError(f"interface {name!r}; there are {_words(links)}", errno.ENODEV)
        index = links[name]["index"]
        found = [a async for a in await netlink.addr("dump", index=index)]
    mac = bytes.fromhex((links[name].get("address") or "").replace(":", ""))
    addresses = frozenset(map(_address, found))
    up = links[name]["flags"] & _UP == _UP
    return Interface(name, index, mac, addresses, frozenset(_networks(found)), up)


async def has_vlans(index: int) -> bool:
    """Whether there are VLANs on this interface."""
    async with opened("VLANs") as netlink:
        links = [link async for link in await netlink.link("dump")]
    return any(
        link.get("link") == index and link.get(("linkinfo", "kind")) == "vlan" for link in links
    )


async def add_vip(vip: Address) -> bool:
    """Puts the VIP on `lo`. False: it was there, and is adopted. Raises KernelError."""
    return await _change("add", vip, settled=errno.EEXIST)


async def delete_vip(vip: Address) -> bool:
    """Takes the VIP off `lo`, which ends its connections. False: it was absent."""
    return await _change("del", vip, settled=errno.EADDRNOTAVAIL)


async def vips_on_lo() -> frozenset[Address]:
    """Those that `add_vip` put there, in whatever life of the daemon."""
    async with opened("addresses of lo") as netlink:
        entries = [a async for a in await netlink.addr("dump", index=_LO)]
    return frozenset(
        _address(a) for a in entries if a.get("label") == _LABEL or a.get("proto") == _ADDED_BY
    )


async def address_owner(address: Address) -> str | None:
    """The interface that has `address`; None if none does. `lo` only if no other has it too."""
    async with opened(f"owner of {address}") as netlink:
        owners = {a["index"] async for a in await netlink.addr("dump") if _address(a) == address}
        if not owners:
            return None
        [link] = await netlink.link("get", index=max(owners))  # `lo` has the lowest index
    return str(link.get("ifname"))


@contextlib.asynccontextmanager
async def opened(what: str) -> AsyncIterator[Any]:
    """A netlink socket; what the kernel refuses within becomes a KernelError.

    The kernel itself filters what is dumped (NETLINK_GET_STRICT_CHK).
    """
    try:
        async with AsyncIPRoute(strict_check=True) as netlink:  # type: ignore[no-untyped-call]
            yield netlink
    except NetlinkError as error:
        raise KernelError(what, error.code) from None


def family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


async def _change(command: str, vip: Address, settled: int) -> bool:
    try:
        async with opened(f"{command} {vip} on lo") as netlink:
            await netlink.addr(command, index=_LO, **_single(vip))
    except KernelError as error:
        if error.errno != settled:
            raise
        return False
    return True


def _single(vip: Address) -> dict[str, Any]:
    """No duplicate address detection: every host of the cluster has the VIP (RFC 4862 5.4)."""
    address: dict[str, Any] = {"address": str(vip), "prefixlen": vip.max_prefixlen}
    if vip.version == 4:
        return address | {"label": _LABEL}
    return address | {"proto": _ADDED_BY, "flags": _IFA_F_NODAD}


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
