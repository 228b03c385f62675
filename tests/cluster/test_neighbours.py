# SPDX-License-Identifier: Apache-2.0
"""An IPv6 VIP on the LAN as the kernel's own neighbour discovery sees it; no packet program."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address

import pytest

from anyport.kernel import ndp, neighbours, netlink
from anyport.kernel.netlink import Interface
from anyport.kernel.netns import current_netns, set_netns
from tests.support.lab_cluster import eventually
from tests.support.netns import fresh_netns, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VIP = IPv6Address("fd77::80")
HOST, CLIENT = "fd77::1", "fd77::100"
ELSEWHERE = "02:00:00:00:00:99"


@dataclass
class Lan:
    """The thread is on the host, which has the VIP on `lo`; `client` is at the other end."""

    interface: Interface
    client_netns: int

    def client(self) -> AbstractContextManager[None]:
        return _in(self.client_netns)


@contextmanager
def _in(netns: int) -> Iterator[None]:
    before = current_netns()
    try:
        set_netns(netns)
        yield
    finally:
        set_netns(before)
        os.close(before)


@pytest.fixture
def lan() -> Iterator[Lan]:
    with fresh_netns():
        client = current_netns()
        with fresh_netns():
            peer = f"peer name eth0 netns /proc/{os.getpid()}/fd/{client}"
            run(*f"ip link add eth0 type veth {peer}".split())
            with _in(client):
                _up(CLIENT)
                # A neighbour that does not answer is given up after three tries of this.
                run("sysctl", "-q", "-w", "net.ipv6.neigh.eth0.retrans_time_ms=100")
            _up(HOST)  # last: then it can send at once
            with _in(client):  # whose carrier the kernel tells it of in its own time
                eventually(_has_route, "the client's route")
            yield Lan(asyncio.run(_with_vip()), client)
        os.close(client)


def _has_route() -> bool:
    asked = subprocess.run(["ip", "-6", "route", "get", HOST], capture_output=True)
    return asked.returncode == 0


def _up(address: str) -> None:
    """With a link-local address that needs not wait for its detection: solicitations have it."""
    run(*["ip", "link", "set", "eth0", "up"])
    for usable in (address, address.replace("fd77", "fe80")):
        run(*f"ip address add {usable}/64 dev eth0 nodad".split())


async def _with_vip() -> Interface:
    await netlink.add_vip(VIP)
    return await netlink.interface("eth0")


def connects_to(address: str) -> int:
    """The error of a connection to a port where nobody listens: refused, if it gets there."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.settimeout(10)
        return probe.connect_ex((address, 9))


def neighbour(address: object) -> str:
    shown = subprocess.run(
        ["ip", "-6", "neigh", "show", str(address), "dev", "eth0"], capture_output=True, text=True
    )
    return shown.stdout


def test_a_host_does_not_answer_for_a_vip_on_lo(lan: Lan) -> None:
    """Else every host of the cluster would answer, and the client would take any of them."""
    with ndp.hear_solicitations(VIP, lan.interface), lan.client():
        assert connects_to(HOST) == errno.ECONNREFUSED
        assert connects_to(str(VIP)) == errno.EHOSTUNREACH
        assert "lladdr" not in neighbour(VIP)


def test_a_host_accepts_packets_to_the_vip_and_answers_from_it(lan: Lan) -> None:
    with lan.client():
        mac = lan.interface.mac.hex(":")
        run(*f"ip -6 neigh replace {VIP} lladdr {mac} dev eth0 nud permanent".split())
        assert connects_to(str(VIP)) == errno.ECONNREFUSED


def test_an_announcement_takes_the_vip_over(lan: Lan) -> None:
    """RFC 4861 7.2.5: with the override flag, a cached address is replaced."""
    with lan.client():
        run(*f"ip -6 neigh add {VIP} lladdr {ELSEWHERE} dev eth0 nud reachable".split())
    neighbours.Announcer(lan.interface).announce(VIP)
    mac = lan.interface.mac.hex(":")
    with lan.client():
        eventually(lambda: f"lladdr {mac}" in neighbour(VIP), "the new address in the cache")


def test_a_probe_finds_who_has_an_address(lan: Lan) -> None:
    """And not the VIP of the other hosts, which is on their `lo`."""
    with lan.client():
        client = asyncio.run(netlink.interface("eth0"))
        assert asyncio.run(ndp.probe(IPv6Address(HOST), client)) == lan.interface.mac
        assert asyncio.run(ndp.probe(VIP, client)) is None


def test_solicitations_are_heard_while_it_is_wanted(lan: Lan) -> None:
    group = "ff02::1:ff00:80"
    assert str(ndp.solicited_node(VIP)) == group

    def member() -> bool:
        return group in run("ip", "-6", "maddr", "show", "dev", "eth0")

    assert not member()
    with ndp.hear_solicitations(VIP, lan.interface):
        assert member()
    assert not member()


@pytest.mark.parametrize("destination", [HOST.replace("::1", "::2"), "2001:db8::1"])
def test_the_vip_is_never_the_source_of_a_hosts_own_packets(lan: Lan, destination: str) -> None:
    """RFC 6724 rule 5: the outgoing interface has an address of its own. Else the answers
    would go to the distributor."""
    run(*["ip", "-6", "route", "add", "default", "dev", "eth0"])
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect((destination, 9))
        assert probe.getsockname()[0] == HOST
