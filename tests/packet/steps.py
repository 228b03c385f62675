# SPDX-License-Identifier: Apache-2.0
"""What can happen to a distributor, as hypothesis draws it: packets, and changes of its tables."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from anyport.decide.rows import NO_HOP, Hop, HostRow, Path, RouteKind, RouteRow
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.frames import FLAGS, FRAMES, MACS, PEER, client_ports, mixed
from tests.packet.twin import EXTRA, EXTRA_ROW, LAST_PORT, LAST_SLOT, ROWS, SELECTIONS, Twin, is_run
from tests.packet.world import GSO, MAC, VIPS, World
from tests.support.packets import ACK, SYN


@dataclass(frozen=True)
class Step:
    words: str
    do: Callable[[Twin], object]

    def __repr__(self) -> str:
        return self.words


def change(words: str, do: Callable[[World], object]) -> Step:
    return Step(words, lambda twin: twin.change(do))


# ---- what the daemon writes ----

IDLE = [0, 10, 35, 90]
"""Seconds; see `passages`."""
PORTS = [w.SHARED, w.TURNS, w.UNIQUE, w.CLOSED, w.FALLBACK, LAST_PORT]
SLOTS = [w.HERE, w.A, w.B, w.NO_PATH, w.TUNNEL, w.CROSSED, LAST_SLOT]
MTUS = [0, 576, 1280, 1300, 1500]
"""Of paths; 0: not known."""
slots = st.sampled_from(SLOTS)
rows = st.sampled_from(sorted(ROWS.values()))
vips = st.sampled_from(sorted(ROWS, key=str))


def _routed(index: int, port: int, protocol: Protocol, row: RouteRow) -> Step:
    def do(world: World) -> None:
        if index != EXTRA_ROW or EXTRA in world.kernel.vips():
            world.kernel.set_routes(index, {(protocol, port): row})

    return change(f"row {index}: {protocol.word} {port} -> {row}", do)


masks = st.sets(slots, max_size=4).map(lambda chosen: w.mask(*chosen))
routes = st.one_of(
    st.just(RouteRow(RouteKind.NONE)),
    slots.map(lambda slot: RouteRow(RouteKind.UNIQUE, slot, w.mask(slot))),
    st.builds(RouteRow, st.just(RouteKind.DISTRIBUTED), st.sampled_from(SELECTIONS), masks),
    st.builds(RouteRow, st.just(RouteKind.FALLBACK), st.just(0), masks),
)
routings = st.builds(_routed, rows, st.sampled_from(PORTS), st.sampled_from(Protocol), routes)


def _selection(index: int, method: int, table: list[int]) -> Step:
    return change(
        f"selection {index}: method {method}, {table}",
        lambda world: world.kernel.set_selection(index, method, table),
    )


selections = st.builds(
    _selection, st.sampled_from(SELECTIONS), st.sampled_from([0, 1]), st.lists(slots, max_size=7)
)


def _hop(path: Path, address: Address, ifindex: int, source: Address | None, mtu: int) -> Hop:
    return NO_HOP if path is Path.NONE else Hop(address, path, ifindex, source, mtu)


hops = st.builds(
    _hop,
    st.sampled_from(Path),
    st.sampled_from([IPv4Address("10.0.0.7"), IPv6Address("fd00::7")]),
    st.sampled_from([1, 1, 2]),
    st.sampled_from([w.OWN, w.OWN6, w.OWN, w.OWN6, None]),
    st.sampled_from(MTUS),
)
weights = st.sampled_from([1, 2, 100, 1000])


def _host(slot: int, ipv4: Hop, ipv6: Hop, weight: int, tells_mac: bool) -> Step:
    row = HostRow(ipv4, ipv6, weight, w.mac_of(slot) if tells_mac else b"")
    return change(f"host {slot}: {row}", lambda world: world.kernel.set_host(slot, row))


hosts = st.builds(_host, slots, hops, hops, weights, st.booleans())


def _vip(vip: Address, mac: bytes, udp_idle: int) -> Step:
    def do(world: World) -> None:
        if vip == EXTRA and EXTRA not in world.kernel.vips():
            world.kernel.create_routes(EXTRA_ROW)
        world.kernel.set_vip(vip, ROWS[vip], mac, udp_idle)

    return change(f"VIP {vip}: {mac.hex()}, idle {udp_idle}", do)


definitions = st.builds(_vip, vips, st.sampled_from([MAC, MAC, MACS[0]]), st.sampled_from(IDLE))
deletions = vips.map(
    lambda vip: change(f"no VIP {vip}", lambda world: world.kernel.delete_vip(vip))
)
unfencings = rows.map(lambda row: change(f"unfence {row}", lambda world: world.kernel.unfence(row)))
peers = st.sets(rows).map(
    lambda known: change(f"peer of {known}", lambda w: w.kernel.set_peers({PEER: known}))
)
# Longer than any run: when it ends by itself is no matter of the model.
gatherings = st.builds(
    lambda vip, seconds: change(
        f"{vip} gathers for {seconds} s", lambda world: world.kernel.gather(vip, seconds)
    ),
    vips,
    st.sampled_from([0, 100_000]),
)
absences = st.builds(
    lambda vip, slot: change(
        f"{vip}: {slot} is absent", lambda world: world.kernel.set_absent(vip, slot)
    ),
    vips,
    st.one_of(st.none(), slots),
)


def _entered(vip: Address, slot: int, client_port: int, port: int) -> Step:
    client = w.CLIENT6 if vip.version == 6 else w.CLIENT
    row = client.packed + struct.pack("!HH", client_port, port)

    def do(world: World) -> None:
        if vip in world.kernel.vips():
            world.kernel.enter_connections(vip, ROWS[vip], slot, row)

    return change(f"{vip}: {slot} has {row.hex()}", do)


entries = st.builds(_entered, vips, slots, client_ports, st.sampled_from(PORTS))
handovers = st.sets(slots, max_size=2).map(
    lambda gone: change(f"forget {gone}", lambda w: w.kernel.forget_connections(gone))
)
# Sums of these come no nearer than 10 s to any silence that matters: a busy machine is no matter.
passages = st.sampled_from([25, 50]).map(
    lambda seconds: Step(f"{seconds} s later", lambda twin: twin.age(seconds))
)

# ---- what comes ----


def _send(frame: bytes, gso: bool) -> Step:
    words = frame.hex() + " GSO" * gso
    return Step(words, lambda twin: twin.send(frame, GSO if gso else b""))


packets = st.builds(_send, FRAMES.filter(is_run), st.sampled_from([False] * 7 + [True]))


@st.composite
def lives(draw: st.DrawFn) -> list[Step]:
    """One flow, its silences, and what becomes of its port meanwhile."""
    vip, port = draw(st.sampled_from(list(VIPS))), draw(st.sampled_from([w.SHARED, w.TURNS]))
    protocol = draw(st.sampled_from(Protocol))
    if protocol is Protocol.TCP:
        frames = [w.segment(port, flags, vip=vip) for flags in [SYN, SYN, ACK, *FLAGS]]
    else:
        frames = [w.datagram(port, vip=vip), w.datagram(port, vip=vip, data=b"")]
    sent = st.builds(_send, st.sampled_from(frames), st.just(False))
    routed = st.builds(_routed, *map(st.just, (VIPS[vip], port, protocol)), routes)
    idle = st.builds(_vip, st.just(vip), st.just(MAC), st.sampled_from(IDLE))
    entered = st.builds(_entered, st.just(vip), slots, st.just(5000), st.just(port))
    changed = mixed(routed, routed, idle, gatherings, absences, entered)
    turns = mixed(sent, sent, sent, passages, changed)
    return draw(st.lists(turns, min_size=4, max_size=20))


CHANGES: SearchStrategy[Step] = mixed(
    routings,
    selections,
    hosts,
    definitions,
    deletions,
    unfencings,
    unfencings,
    peers,
    handovers,
    gatherings,
    absences,
    entries,
    passages,
)
runs = st.lists(mixed(packets, packets, packets, packets, CHANGES))
STEPS = st.lists(mixed(runs, lives()), min_size=4, max_size=16).map(
    lambda runs: list(itertools.chain.from_iterable(runs))
)
