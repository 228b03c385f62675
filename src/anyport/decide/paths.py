# SPDX-License-Identifier: Apache-2.0
"""By which path a distributor sends packets to a host, from its own routes and the host's wish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from anyport.decide.rows import NO_HOP, Hop, Path
from anyport.model import Host, PathWish
from anyport.model.definition import Address

IP_VERSIONS = (4, 6)
_OUTER_HEADER = {4: 20, 6: 40}  # bytes: RFC 2003 3.1, RFC 2473 3


@dataclass(frozen=True, slots=True)
class RouteTo:
    """What the kernel says of one address.

    `gateway` None: it is on-link at the interface. `mtu`: bytes of the largest
    packet that gets there, as far as is known.
    """

    interface_index: int
    gateway: Address | None = None
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """`why`: for the operator, one line."""

    hop: Hop
    why: str


def choose(
    version: int, target: Host, here: Host, routes: Mapping[Address, RouteTo], lan: int
) -> Choice:
    """How packets of IP `version` (4 or 6) get to `target` from the distributor `here`.

    `routes` lack the addresses that none leads to; `lan` is the index of the
    interface that the VIPs' packets come in by. On-link there: L2, for nothing
    is between. Else IPIP, as nobody on the way would carry a packet for the VIP
    to this host. A way to the host's address of the packets' own family is
    taken before one to its other address.

    A hop that leads nowhere keeps the address: by it the host is known again,
    and its connections with it.
    """
    own = target.address_for(version)
    if target.name == here.name:
        return Choice(Hop(own, Path.LOCAL), "this host")
    if own is None:
        return Choice(NO_HOP, f"it has no IPv{version} address")
    if target.path is PathWish.L2:
        return Choice(Hop(own, Path.L2, lan), "its host.path says so")
    for address in sorted(target.addresses, key=lambda address: address != own):
        route = routes.get(address)
        choice = _by(address, route, target.path, here, lan) if route else None
        if choice is not None:
            return choice
    return Choice(Hop(own, Path.NONE), f"no route to {own}")


def choices(
    target: Host, here: Host, routes: Mapping[Address, RouteTo], lan: int
) -> dict[int, Choice]:
    """By IP version."""
    return {version: choose(version, target, here, routes, lan) for version in IP_VERSIONS}


def overhead(
    here: Host, distributors: Iterable[Host], routes: Mapping[Address, RouteTo], lan: int
) -> int:
    """Bytes of the longest outer header that may be around packets to `here`; 0: none may.

    `distributors` are the hosts that it may come from. Their routes are not
    known here: that each of them is as far as we are from it, is taken for
    granted. `routes` and `lan` are ours.
    """
    there = (
        choose(version, replace(host, path=here.path), here, routes, lan).hop
        for host in distributors
        for version in IP_VERSIONS
    )
    outer = [hop.address for hop in there if hop.path == Path.IPIP]
    return max((_OUTER_HEADER[address.version] for address in outer if address), default=0)


def _by(address: Address, route: RouteTo, wish: PathWish, here: Host, lan: int) -> Choice | None:
    """None: IPIP is wanted, and this host has no address to send outer packets from."""
    on_lan = route.interface_index == lan and route.gateway is None
    if on_lan and wish is not PathWish.IPIP:
        return Choice(Hop(address, Path.L2, lan), f"{address} is on-link on the LAN")
    source = here.address_for(address.version)
    if source is None:
        return None
    hop = Hop(address, Path.IPIP, route.interface_index, source, route.mtu)
    return Choice(hop, _why_ipip(address, route, wish))


def _why_ipip(address: Address, route: RouteTo, wish: PathWish) -> str:
    if wish is PathWish.IPIP:
        return "its host.path says so"
    if route.gateway is not None:
        return f"{address} is behind {route.gateway}"
    return f"{address} is on-link at another interface than the LAN's"
