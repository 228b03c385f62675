# SPDX-License-Identifier: Apache-2.0
"""Frames of every kind that a distributor meets, as hypothesis draws them: sound and not."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.cases import OTHER_MAC
from tests.packet.twin import EXTRA, LAST_PORT
from tests.packet.world import CLIENT, CLIENT6, MAC, ROUTER_MAC, VIP, VIP6
from tests.support import neighbours
from tests.support.packets import (
    ACK,
    BROADCAST,
    DESTINATION_OPTIONS,
    FIN,
    FRAGMENT,
    HOP_BY_HOP,
    PSH,
    ROUTING,
    RST,
    SYN,
    arp,
    chained,
    ethernet,
    fragments4,
    fragments6,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    tcp,
    udp,
    vlan,
)

Drawn = TypeVar("Drawn")

PEER = bytes.fromhex("02000000ee10")
MACS = [OTHER_MAC, MAC, ROUTER_MAC, PEER, BROADCAST]
ROUTER, ROUTER6 = IPv4Address("203.0.113.1"), IPv6Address("2001:db8:ffff::1")
MTU = bytes.fromhex("00000514")

PORTS = [
    *(w.SHARED, w.TURNS, w.UNIQUE, w.CLOSED, w.FALLBACK, w.AT_HOME),
    *(w.TO_NO_PATH, w.TO_TUNNEL, w.TO_CROSSED, LAST_PORT),
]
FLAGS = [SYN, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK]
ODD_FLAGS = [0, SYN | ACK, SYN | FIN, SYN | RST, 0x3F, FIN | PSH | 0x20, SYN | 0xC0]
ports = st.sampled_from([w.SHARED, w.TURNS] * 3 + PORTS)
client_ports = st.integers(5000, 5001)
flags = st.sampled_from(FLAGS * 3 + ODD_FLAGS)
vips: SearchStrategy[Address] = st.sampled_from([VIP, VIP6, VIP, VIP6, EXTRA])
clients = st.sampled_from([0, 0, 0, 1])
ttls = st.sampled_from([64] * 9 + [0, 1, 2, 255])
data = st.sampled_from([b"", b"x", b"question", bytes(100), bytes(600), bytes(1440)])

# ---- packets: (source, destination, protocol, payload), then in IP ----

EXTENSIONS = [
    (HOP_BY_HOP, bytes.fromhex("050200000100")),
    (DESTINATION_OPTIONS, bytes.fromhex("010400000000")),
    (DESTINATION_OPTIONS, bytes(14)),
    (ROUTING, bytes(6)),
    (ROUTING, bytes([0, 1, 0, 0, 0, 0]) + bytes(16)),
    (FRAGMENT, bytes(6)),
    (FRAGMENT, bytes.fromhex("000100000007")),
    (FRAGMENT, bytes.fromhex("003000000007")),
]
chains: SearchStrategy[list[tuple[int, bytes]]] = st.one_of(
    st.just([]),
    st.just([]),
    st.lists(st.sampled_from(EXTENSIONS), max_size=3),
    st.builds(
        lambda options, last: [EXTENSIONS[1]] * options + [last],
        st.integers(6, 9),
        st.sampled_from(EXTENSIONS),
    ),
)
options = st.sampled_from([b"", b"", b"\x01" * 4, b"\x01" * 40])


def mixed(*strategies: SearchStrategy[Drawn]) -> SearchStrategy[Drawn]:
    """Each as often as the next; st.one_of would count what they consist of themselves."""
    return st.sampled_from(strategies).flatmap(lambda strategy: strategy)


def client_of(vip: Address, number: int) -> Address:
    return CLIENT6 + number if isinstance(vip, IPv6Address) else CLIENT + number


def in_ip(
    draw: st.DrawFn, source: Address, destination: Address, protocol: int, payload: bytes
) -> bytes:
    if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
        return ipv4(source, destination, protocol, payload, ttl=draw(ttls), options=draw(options))
    assert isinstance(source, IPv6Address)
    assert isinstance(destination, IPv6Address)
    chain = draw(chains)
    first, extensions = chained(chain, protocol) if chain else (protocol, b"")
    return ipv6(
        source, destination, protocol, payload, ttl=draw(ttls), first=first, extensions=extensions
    )


def in_ethernet(packet: bytes, vip: Address) -> bytes:
    return w.ip_frame(packet) if isinstance(vip, IPv4Address) else w.ip6_frame(packet)


@st.composite
def transports(draw: st.DrawFn) -> tuple[int, bytes]:
    """What a client sends: protocol, header and data."""
    client_port, port = draw(client_ports), draw(ports)
    if draw(st.booleans()):
        return 6, tcp(client_port, port, draw(flags), data=draw(data))
    return 17, udp(client_port, port, draw(data))


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    """A TCP segment or a datagram."""
    vip = draw(vips)
    source = client_of(vip, draw(clients))
    return in_ethernet(in_ip(draw, source, vip, *draw(transports())), vip)


@st.composite
def echoes(draw: st.DrawFn) -> bytes:
    """ICMP that is about no connection, and other protocols."""
    vip = draw(vips)
    protocol = draw(st.sampled_from([1, 58, 50, 59, 132]))
    payload = bytes([draw(st.sampled_from([0, 5, 8, 100, 128, 134, 137]))]) + bytes(15)
    return in_ethernet(in_ip(draw, client_of(vip, 0), vip, protocol, payload), vip)


@st.composite
def errors(draw: st.DrawFn) -> bytes:
    """About what a target sent; perhaps cut off."""
    vip = draw(vips)
    client, answer = client_of(vip, draw(clients)), tcp(draw(ports), draw(client_ports), ACK)
    protocol = draw(st.sampled_from([6, 17, 6, 17, 1, 58]))
    sender = draw(st.sampled_from([vip, vip, vip, client]))
    inside = in_ip(draw, sender, client, protocol, answer)
    inside = inside[: len(inside) - draw(st.sampled_from([0, 0, 4, 16, 17, 20, 40]))]
    if isinstance(vip, IPv6Address):
        body = icmpv6(ROUTER6, vip, draw(st.integers(1, 5)), 0, MTU + inside)
        return in_ethernet(in_ip(draw, ROUTER6, vip, 58, body), vip)
    kind = draw(st.sampled_from([3, 4, 11, 12]))
    return in_ethernet(in_ip(draw, ROUTER, vip, 1, icmp(kind, 4, MTU + inside)), vip)


@st.composite
def pieces(draw: st.DrawFn) -> bytes:
    """One fragment of a packet; the others of the same are drawn often enough."""
    vip, identification = draw(vips), draw(st.integers(1, 2))
    port = draw(st.sampled_from([w.SHARED, w.TURNS, w.CLOSED, w.TO_TUNNEL]))
    payload = udp(5000, port, bytes(100)) if identification == 1 else tcp(1, port, data=bytes(90))
    protocol = 17 if identification == 1 else 6
    client, ttl = client_of(vip, 0), draw(ttls)
    if isinstance(vip, IPv6Address) and isinstance(client, IPv6Address):
        cut = fragments6(client, vip, protocol, payload, 48, identification=identification, ttl=ttl)
    else:
        assert isinstance(vip, IPv4Address)
        assert isinstance(client, IPv4Address)
        cut = fragments4(client, vip, protocol, payload, 48, identification=identification, ttl=ttl)
    return in_ethernet(draw(st.sampled_from(cut)), vip)


@st.composite
def arps(draw: st.DrawFn) -> bytes:
    addresses = st.sampled_from([VIP, EXTRA, CLIENT])
    return arp(
        draw(st.sampled_from([1, 1, 2, 8])),
        draw(st.sampled_from(MACS)),
        draw(st.one_of(st.just(CLIENT), addresses)),
        draw(addresses),
        destination=draw(st.sampled_from([BROADCAST, BROADCAST, MAC, OTHER_MAC])),
    )


@st.composite
def discoveries(draw: st.DrawFn) -> bytes:
    """Neighbour solicitations and advertisements."""
    target = draw(st.sampled_from([VIP6, VIP6, CLIENT6]))
    group = neighbours.solicited_node(target)
    option = st.builds(neighbours.option, st.sampled_from([1, 1, 2, 14]), st.sampled_from(MACS))
    return neighbours.message(
        draw(st.sampled_from([135, 135, 136])),
        draw(st.sampled_from(MACS)),
        draw(st.sampled_from([CLIENT6, CLIENT6, VIP6, neighbours.NOBODY])),
        draw(st.sampled_from([group, group, VIP6, neighbours.ALL_NODES])),
        target,
        options=b"".join(draw(st.lists(option, max_size=2))),
        flags=draw(st.sampled_from([0, neighbours.SOLICITED, neighbours.OVERRIDE])),
        destination_mac=draw(st.sampled_from([None, None, MAC, OTHER_MAC])),
        ttl=draw(st.sampled_from([255, 255, 255, 254])),
    )


# ---- and what may have happened to them ----


def with_macs(frame: bytes, destination: bytes, source: bytes) -> bytes:
    return destination + source + frame[12:]


def cut_off(frame: bytes, kept: int) -> bytes:
    return frame[: max(14, min(kept, len(frame)))]


def flipped(frame: bytes, bits: list[int]) -> bytes:
    out = bytearray(frame)
    for bit in bits:
        out[bit // 8 % len(out)] ^= 1 << bit % 8
    return bytes(out)


def with_word(frame: bytes, offset: int, word: int) -> bytes:
    """A length, most likely, that is a lie."""
    offset = min(offset, len(frame) - 2)
    return frame[:offset] + struct.pack("!H", word) + frame[offset + 2 :]


SOUND = mixed(segments(), segments(), segments(), pieces(), pieces(), errors(), echoes())
NEIGHBOURS = mixed(arps(), discoveries())
ANY = mixed(SOUND, SOUND, SOUND, NEIGHBOURS)
LENGTHS = [14, 16, 18, 20, 34, 38, 46, 54, 58]
"""Where frames have lengths, offsets and types."""

BROKEN = st.one_of(
    st.builds(cut_off, ANY, st.integers(14, 150)),
    st.builds(lambda frame, padding: frame + bytes(padding), ANY, st.integers(1, 60)),
    st.builds(flipped, ANY, st.lists(st.integers(0, 8 * 90), min_size=1, max_size=3)),
    st.builds(with_word, ANY, st.sampled_from(LENGTHS), st.sampled_from([0, 1, 7, 8, 40, 65535])),
    st.builds(vlan, ANY, st.sampled_from([0, 100])),
    st.builds(ethernet, st.just(MAC), st.just(ROUTER_MAC), st.integers(0, 65535), st.binary()),
)
REROUTED = st.builds(
    with_macs, SOUND, st.sampled_from([MAC, MAC, MAC, *MACS]), st.sampled_from(MACS)
)
FRAMES: SearchStrategy[bytes] = mixed(SOUND, SOUND, SOUND, NEIGHBOURS, REROUTED, BROKEN)
