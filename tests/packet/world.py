# SPDX-License-Identifier: Apache-2.0
"""A distributor with one VIP and a port of each kind; packets are run through its program."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path as PinDirectory

from anyport.decide.rows import MAX_HOSTS, Hop, HostRow, Path, RouteKind, RouteRow
from anyport.kernel import abi
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

# TC_ACT_*, and what becomes of a packet in XDP, enum xdp_action
PASSED, DROPPED, REDIRECTED = 0xFFFFFFFF, 2, 7
XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3

SIZE_VERDICTS = {"too_big", "drop_too_big", "drop_encapsulation"}
"""TC's own, after a target has been chosen."""
GSO = bytes(176) + (1448).to_bytes(4, "little") + bytes(12)
"""The context (struct __sk_buff) of a packet that the kernel has put together of several."""

# Host slots, by the path to them.
HERE, A, B, NO_PATH, TUNNEL, CROSSED = range(6)
ABSENT = 70

# Ports, by their route.
SHARED, ONLY_A, TURNS, AT_HOME, FALLBACK, UNIQUE, UNIQUE_HERE = 80, 81, 82, 83, 84, 85, 86
TO_NO_PATH, TO_TUNNEL, TO_EMPTY_TABLE, TO_ABSENT_HOST, TO_ABSENT_TABLE = 90, 91, 92, 93, 94
FALLBACK_TO_NONE, TO_CROSSED, CLOSED = 95, 96, 99


# The distributor, and targets that are not on its LAN: behind one address or the other.
OWN, OWN6 = IPv4Address("10.0.0.1"), IPv6Address("fd00::1")
OUTER, OUTER6 = IPv4Address("10.9.0.5"), IPv6Address("fd00:9::5")
PATH_MTU = 1500


def tunnelled(ipv4: Address, ipv6: Address, mtu: int = PATH_MTU) -> HostRow:
    """IPv4 packets go in outer ones to the first address, IPv6 packets to the second."""
    first, second = (
        Hop(address, Path.IPIP, 1, OWN if address.version == 4 else OWN6, mtu)
        for address in (ipv4, ipv6)
    )
    return HostRow(first, second, 100)


def distributed(selection: int, *slots: int) -> RouteRow:
    return RouteRow(RouteKind.DISTRIBUTED, selection, mask(*slots))


def mac_of(slot: int) -> bytes:
    return bytes.fromhex("02000000dd00")[:5] + bytes([slot])


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
    TO_CROSSED: RouteRow(RouteKind.UNIQUE, CROSSED, mask(CROSSED)),
    TO_EMPTY_TABLE: distributed(9, A),
    TO_ABSENT_HOST: RouteRow(RouteKind.UNIQUE, ABSENT, 0),
    TO_ABSENT_TABLE: distributed(5000, A),
    FALLBACK_TO_NONE: RouteRow(RouteKind.FALLBACK, 0, 0),
}


@dataclass(frozen=True)
class Outcome:
    """`row` of the VIP and `slot` of the target, as they were counted; None: of none."""

    verdict: str
    action: int
    out: bytes
    row: int | None
    slot: int | None


class World:
    """`hook` `xdp`: packets are run through distribute_xdp first, and what that leaves
    through distribute; the outcome is told as TC tells it."""

    def __init__(
        self,
        hash_key: int = 7,
        connections: int = 4096,
        hook: str = "tc",
        pins: PinDirectory | None = None,
    ) -> None:
        self.hook = hook
        self.counted_slots = range(CROSSED + 1)  # all would take ten times as long
        self.kernel = DistributorKernel.load(1, pins, connections, hash_key, in_xdp=True)
        for index in VIPS.values():
            self.kernel.create_routes(index)
        self.furnish()

    def furnish(self) -> None:
        """As it begins; what is remembered of packets stays."""
        self._set_hosts()
        self._set_selections()
        self.kernel.set_peers({})
        rows = {(protocol, port): row for port, row in ROUTES.items() for protocol in Protocol}
        for vip, index in VIPS.items():
            self.kernel.set_routes(index, rows)
            self.kernel.set_vip(vip, index, MAC, gathering=0)
            self.kernel.set_absent(vip, None)

    def close(self) -> None:
        self.kernel.close()

    def run(self, frame: bytes, context: bytes = b"") -> Outcome:
        """One packet; exactly one counter moved, by this packet."""
        before = self.counts()
        if self.hook == "xdp" and not context:
            chosen, action, out = self._run_xdp(frame)
        else:
            chosen, (action, out, _, _) = None, self.kernel.program.test_run(frame, context)
        after = self.counts()
        moved = {key: new for key, new in after.items() if new != before.get(key)}
        assert len(moved) == 1, moved
        (row, slot, verdict), (packets, length) = next(iter(moved.items()))
        old = before.get((row, slot, verdict), (0, 0))
        assert (packets - old[0], length - old[1]) == (1, len(frame))
        name = verdict.name.lower()
        return Outcome(
            name if name in SIZE_VERDICTS else chosen or name,
            action,
            out,
            None if row == abi.NO_ROW else row,
            None if slot == abi.NO_SLOT else slot,
        )

    def counts(self) -> dict[tuple[int, int, abi.Verdict], tuple[int, int]]:
        """(Row, slot, verdict) -> packets, bytes."""
        counts = self.kernel.counts(self.counted_slots)
        return {(c.row, c.slot, c.verdict): (c.packets, c.bytes) for c in counts}

    def _run_xdp(self, frame: bytes) -> tuple[str | None, int, bytes]:
        """What XDP chose and handed on, if it did; then as in TC, action and bytes."""
        assert self.kernel.xdp_program is not None
        action, out, _, _ = self.kernel.xdp_program.test_run(frame)
        if action == XDP_TX:
            assert out[:6] in map(mac_of, (A, B))
            assert out[6:12] == frame[:6]
            return None, REDIRECTED, frame[:12] + out[12:]
        if action == XDP_DROP:
            return None, DROPPED, out
        assert action == XDP_PASS
        assert out[-len(frame) :] == frame
        handed = out[: -len(frame)]
        action, out, _, _ = self.kernel.program.test_run(frame)
        return verdict_in(handed), action, out

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
        ):
            ipv4 = Hop(IPv4Address("10.0.0.0") + number, path, 1)
            ipv6 = Hop(IPv6Address("fd00::") + number, path, 1)
            self.kernel.set_host(slot, HostRow(ipv4, ipv6, 100, mac_of(slot)))
        self.kernel.set_host(TUNNEL, tunnelled(OUTER, OUTER6))
        self.kernel.set_host(CROSSED, tunnelled(OUTER6, OUTER))

    def _set_selections(self) -> None:
        self.kernel.set_selection(0, SelectionMethod.HASH, [A, B] * 100)
        self.kernel.set_selection(1, SelectionMethod.HASH, [A])
        self.kernel.set_selection(2, SelectionMethod.ROUND_ROBIN, [HERE, A, B])
        self.kernel.set_selection(3, SelectionMethod.HASH, [HERE])


def verdict_in(metadata: bytes) -> str | None:
    """Of the choice that XDP hands on before the frame; a test run of TC takes none."""
    if not metadata:
        return None
    handed = abi.HandedOn.from_buffer_copy(metadata)
    assert handed.magic == abi.HANDED_ON
    return abi.Verdict(handed.verdict).name.lower()


def in_outer(
    frame: bytes,
    destination: Address,
    source: Address | None = None,
    *,
    tos: int = 0,
    ttl: int = 64,
) -> bytes:
    """The frame with its packet inside one to a target (RFC 2003, 2473), from the distributor."""
    packet, protocol = frame[14:], 4 if frame[14] >> 4 == 4 else 41
    if isinstance(destination, IPv4Address):
        own = source if isinstance(source, IPv4Address) else OWN
        outer = packets.ipv4(own, destination, protocol, packet, tos=tos, ttl=ttl, identification=0)
        return frame[:12] + b"\x08\x00" + outer
    own6 = source if isinstance(source, IPv6Address) else OWN6
    word = 6 << 28 | tos << 20
    outer = packets.ipv6(own6, destination, protocol, packet, ttl=ttl, version=word)
    return frame[:12] + b"\x86\xdd" + outer


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
