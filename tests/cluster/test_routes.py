# SPDX-License-Identifier: Apache-2.0
"""kernel.routes, in a network namespace with two interfaces and a gateway."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from anyport.decide.paths import RouteTo
from anyport.kernel.route_news import RouteNews
from anyport.kernel.routes import Routes
from anyport.model import Host
from anyport.model.definition import Address
from tests.support.netns import fresh_netns, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

LAN, OTHER = 10, 11
HERE4, HERE6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
GATEWAY4, GATEWAY6 = IPv4Address("192.0.2.254"), IPv6Address("2001:db8::fe")
NEAR = Host("near", IPv4Address("192.0.2.7"), address6=IPv6Address("2001:db8::7"))
BESIDE = Host("beside", IPv4Address("198.51.100.7"))
FAR = Host("far", IPv4Address("203.0.113.7"), address6=IPv6Address("2001:db8:f::7"))
ASKER = "one"
PATIENCE_SECONDS = 20.0


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with fresh_netns():
        for index, name in ((LAN, "lan0"), (OTHER, "other0")):
            ip(f"link add {name} index {index} type veth peer name peer-{name}")
            ip(f"link set {name} addrgenmode none up")  # its address would be news of its own
            ip(f"link set peer-{name} addrgenmode none up")
        ip(f"address add {HERE4}/24 dev lan0")
        ip(f"address add {HERE6}/64 dev lan0 nodad")
        ip("address add 198.51.100.1/24 dev other0")
        yield


def ip(command: str) -> None:
    run("ip", *command.split())


@asynccontextmanager
async def watched(*hosts: Host) -> AsyncIterator[tuple[Routes, asyncio.Event]]:
    """The event is set at each change."""
    routes, changed = Routes(LAN), asyncio.Event()
    await routes.know_hosts(ASKER, {host.name: host for host in hosts})
    routes.on_change(changed.set)
    running = asyncio.create_task(routes.run())
    try:
        yield routes, changed
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def next_change(changed: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await changed.wait()
    changed.clear()


def test_what_leads_to_each_address() -> None:
    ip(f"route add 203.0.113.0/24 via {GATEWAY4} mtu 1300")
    ip(f"route add 2001:db8:f::/64 via {GATEWAY6}")
    ip("link set other0 mtu 1400")

    async def main() -> None:
        routes = Routes(LAN)
        nowhere = Host("nowhere", IPv4Address("10.0.0.1"))
        own = Host("own", HERE4)
        hosts = (NEAR, BESIDE, FAR, nowhere, own)
        await routes.know_hosts(ASKER, {host.name: host for host in hosts})
        assert routes.to == {
            NEAR.address: RouteTo(LAN, None, 1500),
            NEAR.address6: RouteTo(LAN, None, 1500),
            BESIDE.address: RouteTo(OTHER, None, 1400),
            FAR.address: RouteTo(LAN, GATEWAY4, 1300),
            FAR.address6: RouteTo(LAN, GATEWAY6, 1500),
        }

    asyncio.run(main())


def test_who_asks_while_another_is_answered_waits_for_it() -> None:
    async def main() -> None:
        routes = Routes(LAN)

        async def ask() -> set[Address]:
            await routes.know_hosts(ASKER, {"near": NEAR})
            return set(routes.to)

        assert [*await asyncio.gather(ask(), ask())] == [set(NEAR.addresses)] * 2

    asyncio.run(main())


def test_two_that_ask_for_different_hosts_do_not_answer_each_other_for_ever() -> None:
    """As a distributor, which sends to absent hosts too, and the end of tunnels, do whenever one
    of them has been told of a change."""
    ip(f"route add 203.0.113.0/24 via {GATEWAY4}")

    async def main() -> None:
        routes, told = Routes(LAN), []
        routes.on_change(lambda: told.append(set(routes.to)))
        for _ in range(3):
            await routes.know_hosts(ASKER, {"near": NEAR, "far": FAR})
            await routes.know_hosts("another", {"near": NEAR})
        everybody = {*NEAR.addresses, FAR.address}
        assert told == [everybody]
        await routes.know_hosts(ASKER, {})
        assert told == [everybody, set(NEAR.addresses)]

    asyncio.run(main())


def test_a_gateway_of_the_other_family_is_one() -> None:
    ip(f"route add 203.0.113.0/24 via inet6 {GATEWAY6}")

    async def main() -> None:
        routes = Routes(LAN)
        await routes.know_hosts(ASKER, {"far": FAR})
        assert routes.to[FAR.address] == RouteTo(LAN, GATEWAY6, 1500)

    asyncio.run(main())


def test_what_is_on_link_at_the_interface_alone() -> None:
    ip(f"route add 203.0.113.0/24 via {GATEWAY4}")
    ip("route add 10.1.0.0/16 dev lan0")

    async def main() -> None:
        routes = Routes(LAN)
        await routes.know_hosts(ASKER, {})
        expected = {"192.0.2.0/24", "10.1.0.0/16", "2001:db8::/64"}
        assert routes.on_link == {ip_network(text) for text in expected}

    asyncio.run(main())


@pytest.mark.parametrize(
    "change",
    [
        f"route add {FAR.address} via {GATEWAY4}",
        f"-6 route add {FAR.address6} via {GATEWAY6}",
        "address add 10.2.0.1/32 dev other0",
        "address add 2001:db8:2::1/128 dev other0 nodad",
        "link set lan0 mtu 1400",
        "rule add to 10.3.0.0/16 lookup 100",
        "-6 rule add to 2001:db8:3::/48 lookup 100",
    ],
)
def test_each_kind_of_change_is_news(change: str) -> None:
    async def main() -> None:
        with RouteNews() as news:
            ip(change)
            assert await news.wait(PATIENCE_SECONDS)

    asyncio.run(main())


def test_a_change_of_a_route_is_heard() -> None:
    async def main() -> None:
        async with watched(FAR) as (routes, changed):
            assert routes.to == {}
            ip(f"route add {FAR.address} via {GATEWAY4}")
            await next_change(changed)
            assert routes.to == {FAR.address: RouteTo(LAN, GATEWAY4, 1500)}
            ip(f"-6 route add {FAR.address6} dev other0")
            await next_change(changed)
            assert routes.to[FAR.addresses[1]] == RouteTo(OTHER, None, 1500)

    asyncio.run(main())


def test_a_change_of_an_address_or_a_link_is_heard() -> None:
    async def main() -> None:
        async with watched(NEAR) as (routes, changed):
            ip("link set lan0 mtu 1400")
            await next_change(changed)
            assert routes.to[NEAR.address].mtu == 1400
            ip("address add 10.2.0.1/16 dev lan0")
            await next_change(changed)
            assert ip_network("10.2.0.0/16") in routes.on_link

    asyncio.run(main())
