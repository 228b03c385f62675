# SPDX-License-Identifier: Apache-2.0
"""A distributor with one VIP and a port of each kind; packets are run through its program."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from anyport.decide.rows import MAX_HOSTS, Hop, HostRow, Path, RouteKind, RouteRow
from anyport.kernel.abi import SelectionMethod
from anyport.kernel.connections import ConnectionRow
from anyport.kernel.distribute import DistributorKernel
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.support import packets

VIP = IPv4Address("10.0.0.100")
CLIENT = IPv4Address("192.168.7.9")
VIP6 = IPv6Address("fd00::1:100")
CLIENT6 = IPv6Address("2001:db8::7:9")
VIPS: dict[Address, int] = {VIP: 0, VIP6: 7}
"""With their rows; the ports of both are routed alike."""
MAC = bytes.fromhex("02000000aa01")
ROUTER_MAC = bytes.fromhex("02000000bb01")

# TC_ACT_*
PASSED, DROPPED, REDIRECTED = 0xFFFFFFFF, 2, 7

# Host slots, by the path to them.
HERE, A, B, NO_PATH, TUNNEL = range(5)
ABSENT = 70

# Ports, by their route.
SHARED, ONLY_A, TURNS, AT_HOME, FALLBACK, UNIQUE, UNIQUE_HERE = 80, 81, 82, 83, 84, 85, 86
TO_NO_PATH, TO_TUNNEL, TO_EMPTY_TABLE, TO_ABSENT_HOST, TO_ABSENT_TABLE = 90, 91, 92, 93, 94
FALLBACK_TO_NONE, CLOSED = 95, 99


def distributed(selection: int, *slots: int) -> RouteRow:
    return RouteRow(RouteKind.DISTRIBUTED, selection, mask(*slots))


def mask(*slots: int) -> int:
    return sum(1 << slot for slot in slots)


ROUTES = {
    SHARED: distributed(0, A, B),
    ONLY_A: distributed(1, A),
    TURNS: distributed(2, HERE, A, B),
    AT_HOME: distributed(3, HERE),
    FALLBACK: RouteRow(RouteKind.FALLBACK, 0, mask(A, B)),
    UNIQUE: RouteRow(RouteKind.UNIQUE, B, mask(B)),
    UNIQUE_HERE: RouteRow(RouteKind.UNIQUE, HERE, mask(HERE)),
    TO_NO_PATH: RouteRow(RouteKind.UNIQUE, NO_PATH, mask(NO_PATH)),
    TO_TUNNEL: RouteRow(RouteKind.UNIQUE, TUNNEL, mask(TUNNEL)),
    TO_EMPTY_TABLE: distributed(9, A),
    TO_ABSENT_HOST: RouteRow(RouteKind.UNIQUE, ABSENT, 0),
    TO_ABSENT_TABLE: distributed(5000, A),
    FALLBACK_TO_NONE: RouteRow(RouteKind.FALLBACK, 0, 0),
}


@dataclass(frozen=True)
class Outcome:
    verdict: str
    action: int
    out: bytes


class World:
    def __init__(self, hash_key: int = 7, connections: int = 4096) -> None:
        self.kernel = DistributorKernel.load(1, None, connections, hash_key)
        self._set_hosts()
        self._set_selections()
        rows = {(protocol, port): row for port, row in ROUTES.items() for protocol in Protocol}
        for vip, index in VIPS.items():
            self.kernel.create_routes(index)
            self.kernel.set_routes(index, rows)
            self.kernel.set_vip(vip, index, MAC)

    def close(self) -> None:
        self.kernel.close()

    def run(self, frame: bytes, context: bytes = b"") -> Outcome:
        """One packet; the verdict is the only counter that moved, and it moved by one."""
        before = self.kernel.counters()
        action, out, _, _ = self.kernel.program.test_run(frame, context)
        after = self.kernel.counters()
        moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        assert list(moved.values()) == [1], moved
        return Outcome(next(iter(moved)), action, out)

    def send(self, *frames: bytes) -> list[str]:
        return [self.run(frame).verdict for frame in frames]

    def route(self, port: int, row: RouteRow, protocol: Protocol = Protocol.TCP) -> None:
        """Of either VIP."""
        for index in VIPS.values():
            self.kernel.set_routes(index, {(protocol, port): row})

    def connection(self, client_port: int = 5000) -> ConnectionRow | None:
        found = [c for c in self.kernel.connections() if c.client_port == client_port]
        assert len(found) <= 1
        return found[0] if found else None

    def slot(self, client_port: int = 5000) -> int:
        connection = self.connection(client_port)
        assert connection is not None
        return connection.slot

    def forget(self) -> None:
        """As if no packet had come yet."""
        self.kernel.forget_connections(range(MAX_HOSTS))
        for index in VIPS.values():
            self.kernel.unfence(index)

    def _set_hosts(self) -> None:
        for slot, path, number in (
            (HERE, Path.LOCAL, 1),
            (A, Path.L2, 2),
            (B, Path.L2, 3),
            (NO_PATH, Path.NONE, 4),
            (TUNNEL, Path.IPIP, 5),
        ):
            ipv4 = Hop(IPv4Address("10.0.0.0") + number, path, 1)
            ipv6 = Hop(IPv6Address("fd00::") + number, path, 1)
            self.kernel.set_host(slot, HostRow(ipv4, ipv6, 100))

    def _set_selections(self) -> None:
        self.kernel.set_selection(0, SelectionMethod.HASH, [A, B] * 100)
        self.kernel.set_selection(1, SelectionMethod.HASH, [A])
        self.kernel.set_selection(2, SelectionMethod.ROUND_ROBIN, [HERE, A, B])
        self.kernel.set_selection(3, SelectionMethod.HASH, [HERE])


def ip_frame(packet: bytes, destination: bytes = MAC) -> bytes:
    return packets.ethernet(destination, ROUTER_MAC, 0x0800, packet)


def ip6_frame(packet: bytes, destination: bytes = MAC) -> bytes:
    return packets.ethernet(destination, ROUTER_MAC, 0x86DD, packet)


def to_vip(
    protocol: int,
    payload: bytes,
    vip: Address = VIP,
    *,
    ttl: int = 64,
    options: bytes = b"",
) -> bytes:
    """A frame with an IP packet from the client to the VIP."""
    if isinstance(vip, IPv6Address):
        return ip6_frame(packets.ipv6(CLIENT6, vip, protocol, payload, ttl=ttl))
    return ip_frame(packets.ipv4(CLIENT, vip, protocol, payload, ttl=ttl, options=options))


def segment(
    port: int,
    flags: int = packets.SYN,
    client_port: int = 5000,
    *,
    vip: Address = VIP,
    ttl: int = 64,
    options: bytes = b"",
    data: bytes = b"",
) -> bytes:
    """A frame with a TCP segment from the client to the VIP."""
    payload = packets.tcp(client_port, port, flags, data=data)
    return to_vip(6, payload, vip, ttl=ttl, options=options)


def datagram(
    port: int, client_port: int = 5000, *, vip: Address = VIP, data: bytes = b"question"
) -> bytes:
    return to_vip(17, packets.udp(client_port, port, data), vip)
