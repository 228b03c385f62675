# SPDX-License-Identifier: Apache-2.0
"""The distributor's LAN as a veth: `lan` has the program, frames go in and out at `wire`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from anyport.decide.rows import Hop, HostRow
from anyport.decide.rows import Path as PathKind
from anyport.kernel.distribute import DistributorKernel
from anyport.model import Protocol
from tests.packet import world as w
from tests.packet.world import MAC, VIPS
from tests.support.netns import fresh_netns, run
from tests.support.packets import one_hop_on

TARGET, TARGET6 = IPv4Address("10.0.0.2"), IPv6Address("fd00::2")
TARGET_MAC = bytes.fromhex("02000000dd02")
OTHER_TARGET, OTHER_TARGET6 = TARGET + 1, TARGET6 + 1
OTHER_TARGET_MAC = bytes.fromhex("02000000dd03")
TARGETS = {w.A: (TARGET, TARGET6, TARGET_MAC), w.B: (OTHER_TARGET, OTHER_TARGET6, OTHER_TARGET_MAC)}


class Wire:
    """The far end of the distributor's LAN: sends frames and receives what comes."""

    def __init__(self) -> None:
        self.index = socket.if_nametoindex("lan")
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind(("wire", 3))
        self._socket.settimeout(10)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._socket.send(frame)

    def receive(self) -> bytes:
        """The next frame that the distributor sent; ETH_P_ALL shows our own as well."""
        while True:
            frame, (_, _, kind, _, _) = self._socket.recvfrom(65536)
            if kind != socket.PACKET_OUTGOING:
                return frame

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def fresh_wire() -> Iterator[Wire]:
    with fresh_netns():
        add_lan()
        wire = Wire()
        yield wire
        wire.close()


def add_lan() -> None:
    run(*f"ip link add lan address {MAC.hex(':')} type veth peer name wire".split())
    Path("/proc/sys/net/ipv6/conf/wire/disable_ipv6").write_text("1")
    for name in ("lan", "wire"):
        run("ip", "link", "set", name, "addrgenmode", "none", "up")  # sends nothing by itself
    run("ip", "address", "add", "10.0.0.1/24", "dev", "lan")
    for *addresses, mac in TARGETS.values():
        for address in addresses:
            entry = f"{address} lladdr {mac.hex(':')} dev lan nud permanent"
            run("ip", "neigh", "add", *entry.split())


def attach(wire: Wire, pins: Path, connections: int = 1024) -> DistributorKernel:
    return DistributorKernel.attach(wire.index, pins, connections, 7)


def fill(kernel: DistributorKernel, wire: Wire) -> None:
    """SHARED goes to A, UNIQUE to B."""
    for slot, (address, address6, _) in TARGETS.items():
        ipv4, ipv6 = (Hop(a, PathKind.L2, wire.index) for a in (address, address6))
        kernel.set_host(slot, HostRow(ipv4, ipv6, 100))
    kernel.set_selection(0, 0, [w.A])
    routes = {w.SHARED: w.distributed(0, w.A), w.UNIQUE: w.ROUTES[w.UNIQUE]}
    for vip, index in VIPS.items():
        kernel.create_routes(index)
        kernel.set_routes(index, {(p, port): row for port, row in routes.items() for p in Protocol})
        kernel.set_vip(vip, index, MAC)


def forwarded(frame: bytes, target_mac: bytes = TARGET_MAC) -> bytes:
    return target_mac + MAC + one_hop_on(frame)[12:]
