# SPDX-License-Identifier: Apache-2.0
"""The kernel's routes to other hosts, kept current (rtnetlink(7))."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from anyport.decide.paths import RouteTo
from anyport.errors import KernelError
from anyport.kernel import netlink
from anyport.kernel.netlink import Network
from anyport.kernel.route_news import RouteNews
from anyport.model import Host
from anyport.model.definition import Address

LOOK_SECONDS = 30.0
"""Without news: what the kernel has learnt of a path's MTU ends without any (mtu_expires)."""
PAUSE_SECONDS = 0.1
"""After each look: a routing daemon may change thousands of routes at a time."""

_MAIN = 254  # RT_TABLE_MAIN
_UNICAST = 1  # RTN_UNICAST
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}


class Routes:
    """What leads to each of the addresses that are `known`, and what is on-link at one interface.

    It is looked up anew at each change of a route, a rule, an address or a link.
    """

    def __init__(self, interface_index: int) -> None:
        self.interface_index = interface_index
        self.to: Mapping[Address, RouteTo] = {}
        """Without those that no route leads to."""
        self.on_link: frozenset[Network] = frozenset()
        self._known: dict[object, frozenset[Address]] = {}
        self._looking = asyncio.Lock()
        self._told: list[Callable[[], None]] = []

    def on_change(self, tell: Callable[[], None]) -> None:
        self._told.append(tell)

    async def know_hosts(self, asker: object, hosts: Mapping[str, Host]) -> None:
        """The addresses of these, and no others, for `asker`, whatever others ask for: to two that
        ask for different ones each other's question would be a change. Raises KernelError."""
        async with self._looking:  # else who asks second would go on without an answer
            before = self._wanted()
            self._known[asker] = frozenset(a for host in hosts.values() for a in host.addresses)
            if self._wanted() != before:
                await self._look()

    def _wanted(self) -> frozenset[Address] | None:
        """None: nobody has asked yet."""
        return frozenset().union(*self._known.values()) if self._known else None

    async def run(self) -> None:
        """Until cancelled. Raises KernelError."""
        with RouteNews() as news:
            while True:
                async with self._looking:
                    await self._look()
                await asyncio.sleep(PAUSE_SECONDS)
                await news.wait(LOOK_SECONDS)

    async def _look(self) -> None:
        async with netlink.opened("routes") as kernel:
            mtus = {link["index"]: link.get("mtu") or 0 async for link in await kernel.link("dump")}
            found = {
                address: await _route_to(kernel, address, mtus) for address in self._wanted() or ()
            }
            on_link = await _on_link(kernel, self.interface_index)
        before = self.to, self.on_link
        self.to = {address: route for address, route in found.items() if route}
        self.on_link = on_link
        if (self.to, self.on_link) != before:
            for tell in self._told:
                tell()


async def _route_to(kernel: Any, address: Address, mtus: Mapping[int, int]) -> RouteTo | None:
    try:
        [route] = await kernel.route("get", dst=str(address), family=netlink.family(address))
    except NetlinkError as error:
        if error.code in _NO_ROUTE:
            return None
        raise KernelError(f"route to {address}", error.code) from None
    if route["type"] != _UNICAST:  # our own address: no way to another host
        return None
    index = route.get("oif")
    mtu = dict((route.get("metrics") or {}).get("attrs", ())).get("RTAX_MTU", 0)
    return RouteTo(index, _gateway(route), mtu or mtus.get(index, 0))


def _gateway(route: Any) -> Address | None:
    via = route.get("gateway") or (route.get("via") or {}).get("addr")
    return ip_address(via) if via else None


async def _on_link(kernel: Any, index: int) -> frozenset[Network]:
    """Of the main table: an address of ours (a DHCPv6 one, say) may be in none."""
    found: set[Network] = set()
    for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        async for route in await kernel.route("dump", family=family, table=_MAIN, oif=index):
            if route["type"] == _UNICAST and _gateway(route) is None:
                found.add(ip_network((route.get("dst") or any_address, route["dst_len"])))
    return frozenset(found)
