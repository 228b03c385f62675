# SPDX-License-Identifier: Apache-2.0
"""A whole IPIP path: client, distributor and target, each in its own subnet of one router."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from anyport.decide.rows import Hop, HostRow, RouteKind, RouteRow
from anyport.decide.rows import Path as PathKind
from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.netns import current_netns, set_netns
from anyport.kernel.target import TargetKernel
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.packet.world import MAC, VIPS
from tests.support.netns import fresh_netns, run

PORT = 80
BYTES = 4_000_000
SUBNETS = {"client": 1, "distributor": 0, "target": 9}
"""10.0.<n>.0/24 and fd00:<n>::/64; the router is .1, the host .2. The VIPs are in the second."""


def ipv4_of(name: str, host: int = 2) -> IPv4Address:
    return IPv4Address(f"10.0.{SUBNETS[name]}.{host}")


def ipv6_of(name: str, host: int = 2) -> IPv6Address:
    return IPv6Address(f"fd00:0:0:{SUBNETS[name]}::{host}")


class Network:
    """Namespaces by name; the router has an interface of each host's name."""

    def __init__(self, stack: ExitStack) -> None:
        self._spaces: dict[str, int] = {}
        for name in ("router", *SUBNETS):
            with fresh_netns():
                self._spaces[name] = current_netns()
                stack.callback(os.close, self._spaces[name])
                configure(forwarding=name == "router")
        for name in SUBNETS:
            self._connect(name)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        before = current_netns()
        set_netns(self._spaces[name])
        try:
            yield
        finally:
            set_netns(before)
            os.close(before)

    def ip(self, name: str, command: str) -> None:
        with self.within(name):
            run("ip", *command.split())

    def _connect(self, name: str) -> None:
        space = f"/proc/{os.getpid()}/fd/{self._spaces[name]}"
        mac = MAC.hex(":") if name == "distributor" else f"02:00:00:00:ee:{SUBNETS[name]:02x}"
        peer = f"peer name lan address {mac} netns {space}"
        self.ip("router", f"link add {name} type veth {peer}")
        self.ip(name, "link set lan addrgenmode none up")
        self.ip("router", f"link set {name} addrgenmode none up")
        for end, device, host in (("router", name, 1), (name, "lan", 2)):
            self.ip(end, f"address add {ipv4_of(name, host)}/24 dev {device}")
            self.ip(end, f"address add {ipv6_of(name, host)}/64 dev {device} nodad")
            self.ip(end, f"address add fe80::{host}/64 dev {device} nodad")
        self.ip(name, f"route add default via {ipv4_of(name, 1)}")
        self.ip(name, f"route add default via {ipv6_of(name, 1)}")


def configure(forwarding: bool) -> None:
    for name in ("all", "default"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
        Path(f"/proc/sys/net/ipv4/conf/{name}/arp_ignore").write_text("1")
        Path(f"/proc/sys/net/ipv4/conf/{name}/arp_announce").write_text("2")
        Path(f"/proc/sys/net/ipv6/conf/{name}/forwarding").write_text(str(int(forwarding)))
    Path("/proc/sys/net/ipv4/ip_forward").write_text(str(int(forwarding)))


@pytest.fixture
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        network = Network(stack)
        for name in ("distributor", "target"):
            for vip in VIPS:
                network.ip(name, f"address add {vip} dev lo")
        yield network


@pytest.fixture
def distributor(network: Network, pins: Path) -> Iterator[DistributorKernel]:
    with network.within("distributor"):
        index = socket.if_nametoindex("lan")
        kernel = DistributorKernel.attach(index, pins / "distributor", 1024, 7)
        for vip, row in VIPS.items():
            kernel.create_routes(row)
            kernel.set_routes(row, {(p, PORT): RouteRow(RouteKind.UNIQUE, 1, 2) for p in Protocol})
            kernel.set_vip(vip, row, MAC)
    with closing(kernel):
        yield kernel


@pytest.fixture
def target(network: Network, pins: Path) -> Iterator[TargetKernel]:
    with network.within("target"):
        kernel = TargetKernel.attach(socket.if_nametoindex("lan"), pins / "target")
    kernel.set_vips(VIPS)
    kernel.set_addresses([ipv4_of("target"), ipv6_of("target")])
    kernel.set_distributors([ipv4_of("distributor"), ipv6_of("distributor")])
    with closing(kernel):
        yield kernel


def set_path(distributor: DistributorKernel, target: TargetKernel, outer: int, mtu: int) -> None:
    """To the target in outer packets of this family."""
    of = ipv4_of if outer == 4 else ipv6_of
    hop = Hop(of("target"), PathKind.IPIP, 0, of("distributor"), mtu)
    distributor.set_host(1, HostRow(hop, hop, 100))
    target.set_overhead(20 if outer == 4 else 40)


def family(vip: Address) -> socket.AddressFamily:
    return socket.AF_INET if vip.version == 4 else socket.AF_INET6


def connected(network: Network, vip: Address) -> tuple[socket.socket, socket.socket]:
    """The client's end and the target's."""
    with network.within("target"):
        listener = socket.create_server((str(vip), PORT), family=family(vip))
    with network.within("client"):
        client = socket.socket(family(vip))
    with closing(listener):
        client.settimeout(120)
        client.connect((str(vip), PORT))
        server, _ = listener.accept()
    server.settimeout(120)
    return client, server


def transfer(sender: socket.socket, receiver: socket.socket) -> None:
    """All of it arrives as it was."""
    data = os.urandom(BYTES)
    thread = threading.Thread(target=sender.sendall, args=(data,))
    thread.start()
    received = bytearray()
    while len(received) < BYTES and (piece := receiver.recv(1 << 20)):
        received += piece
    thread.join()
    assert received == data


pairs = pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])
outers = pytest.mark.parametrize("outer", [4, 6], ids=["in4", "in6"])


@pairs
@outers
def test_bulk_in_both_directions(
    network: Network, distributor: DistributorKernel, target: TargetKernel, vip: Address, outer: int
) -> None:
    """Nothing is too big, as the SYN-ACK said what fits; GSO packets stay whole."""
    set_path(distributor, target, outer, 1500)
    client, server = connected(network, vip)
    with client, server:
        transfer(client, server)
        transfer(server, client)
    counters, told = target.counters(), distributor.counters()
    assert counters["mss_clamped"] >= 1
    assert counters["decapsulated"] < BYTES // 2800
    assert [n for n, count in counters.items() if n.startswith("drop") and count] == []
    assert [n for n, count in told.items() if n.startswith("drop") and count] == []
    assert told["too_big"] == 0


@pairs
@outers
def test_datagrams_that_the_kernel_is_to_cut_apart(
    network: Network, distributor: DistributorKernel, target: TargetKernel, vip: Address, outer: int
) -> None:
    """UDP GSO, udp(7): each stays as long as its sender made it."""
    set_path(distributor, target, outer, 1500)
    with network.within("target"):
        server = socket.socket(family(vip), socket.SOCK_DGRAM)
    with network.within("client"):
        client = socket.socket(family(vip), socket.SOCK_DGRAM)
    with client, server:
        server.bind((str(vip), PORT))
        server.settimeout(120)
        client.connect((str(vip), PORT))
        client.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
        data = os.urandom(5500)
        client.send(data)
        received = [server.recv(2000) for _ in range(6)]
    assert received == [data[start : start + 1000] for start in range(0, 5500, 1000)]


@pairs
@outers
def test_a_smaller_mtu_on_the_way_is_learnt(
    network: Network, distributor: DistributorKernel, target: TargetKernel, vip: Address, outer: int
) -> None:
    """Neither end's interface tells of it: the router's message to the distributor does."""
    network.ip("router", "link set target mtu 1400")
    # That end takes no more than it sends: what the target sends is to be small from the start.
    router = (ipv4_of if vip.version == 4 else ipv6_of)("client", 1)
    network.ip("client", f"route change default via {router} dev lan advmss 1200")
    set_path(distributor, target, outer, 1500)
    client, server = connected(network, vip)
    with client, server:
        transfer(client, server)
        transfer(server, client)
        told = distributor.counters()
        assert told["mtu_learnt"] >= 1
        assert told["too_big"] >= 1
        level, option = (0, 14) if vip.version == 4 else (41, 24)  # IP_MTU, IPV6_MTU
        (mtu,) = struct.unpack("=I", client.getsockopt(level, option, 4))
    assert mtu == 1400 - (20 if outer == 4 else 40)


@pairs
@outers
def test_a_target_that_was_a_distributor_sends_nothing_on(
    network: Network,
    distributor: DistributorKernel,
    target: TargetKernel,
    pins: Path,
    vip: Address,
    outer: int,
) -> None:
    """Its own program still has the VIP, and would send it elsewhere: attached before and after."""
    set_path(distributor, target, outer, 1500)
    elsewhere = Hop(ipv4_of("client"), PathKind.IPIP, 0, ipv4_of("target"), 1500)
    with network.within("target"):
        index = socket.if_nametoindex("lan")
        mac = bytes.fromhex("02000000ee09")
        with closing(DistributorKernel.attach(index, pins / "former", 1024, 7)) as former:
            for address, row in VIPS.items():
                former.create_routes(row)
                former.set_routes(row, {(Protocol.TCP, PORT): RouteRow(RouteKind.UNIQUE, 1, 2)})
                former.set_vip(address, row, mac)
            former.set_host(1, HostRow(elsewhere, elsewhere, 100))
            client, server = connected(network, vip)
            with client, server:
                client.sendall(b"question")
                assert server.recv(100) == b"question"
            assert former.counters()["unique"] == 0
            target.detach()
            again = TargetKernel.attach(index, pins / "again")
            again.set_vips(VIPS)
            again.set_addresses([ipv4_of("target"), ipv6_of("target")])
            again.set_distributors([ipv4_of("distributor"), ipv6_of("distributor")])
            client, server = connected(network, vip)
            with client, server, closing(again):
                client.sendall(b"question")
                assert server.recv(100) == b"question"
            assert former.counters()["unique"] == 0
