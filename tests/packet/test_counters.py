# SPDX-License-Identifier: Apache-2.0
"""Every packet is counted once: by VIP, target and verdict, with its bytes."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from anyport.decide.rows import Hop, HostRow
from anyport.decide.rows import Path as PathKind
from anyport.kernel import abi
from anyport.kernel.abi import NO_ROW, NO_SLOT, PAST_SLOT, Verdict
from anyport.kernel.distribute import DistributorKernel
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.wire import Wire, attach
from tests.packet.world import CLIENT, VIP, VIP6, VIPS, World, datagram, segment
from tests.support.packets import ACK, BROADCAST, MORE_FRAGMENTS, arp, ethernet, ipv4, udp

STRANGER = IPv4Address("10.0.0.77")


def fragment(offset: int) -> bytes:
    """32 bytes of a datagram, and more to follow."""
    payload = udp(5000, w.UNIQUE, bytes(64))[offset : offset + 32]
    return w.ip_frame(ipv4(CLIENT, VIP, 17, payload, fragment=MORE_FRAGMENTS | offset // 8))


COUNTED = [
    ("another's", w.ip_frame(ipv4(CLIENT, STRANGER, 6, b"")), "not_ours", None, None),
    ("no IP", ethernet(BROADCAST, w.ROUTER_MAC, 0x88CC, bytes(46)), "not_ours", None, None),
    ("ARP", arp(1, w.ROUTER_MAC, CLIENT, VIP), "arp_replied", VIP, None),
    ("our own ARP", arp(1, w.MAC, VIP, VIP), "arp_ignored", VIP, None),
    ("unique", segment(w.UNIQUE), "unique", VIP, w.B),
    ("unique, IPv6", segment(w.UNIQUE, vip=VIP6), "unique", VIP6, w.B),
    ("unique, here", segment(w.UNIQUE_HERE), "unique", VIP, w.HERE),
    ("selected", segment(w.ONLY_A), "selected", VIP, w.A),
    ("selected, here", segment(w.AT_HOME), "selected", VIP, w.HERE),
    ("by the hash", segment(w.ONLY_A, ACK), "hashed", VIP, w.A),
    ("a datagram, IPv6", datagram(w.ONLY_A, vip=VIP6), "selected", VIP6, w.A),
    ("no route", segment(w.CLOSED), "no_route", VIP, None),
    ("malformed", w.to_vip(6, bytes(19)), "drop_malformed", VIP, None),
    ("no hop left", segment(w.UNIQUE, ttl=1), "drop_ttl", VIP, w.B),
    ("no path", segment(w.TO_NO_PATH), "drop_no_path", VIP, w.NO_PATH),
    ("to no host", segment(w.TO_ABSENT_HOST), "drop_table", VIP, None),
    ("a first fragment", fragment(0), "unique", VIP, w.B),
]


@pytest.mark.parametrize(
    ("frame", "verdict", "vip", "slot"), [case[1:] for case in COUNTED], ids=[c[0] for c in COUNTED]
)
def test_counted_for(
    shared_world: World, frame: bytes, verdict: str, vip: Address | None, slot: int | None
) -> None:
    shared_world.forget()
    outcome = shared_world.run(frame)
    assert (outcome.verdict, outcome.slot) == (verdict, slot)
    assert outcome.row == (None if vip is None else VIPS[vip])


def test_packets_of_a_connection_count_for_its_target(world: World) -> None:
    for client_port in range(5000, 5020):
        opened = world.run(segment(w.SHARED, client_port=client_port))
        followed = world.run(segment(w.SHARED, ACK, client_port=client_port))
        assert (opened.verdict, followed.verdict) == ("selected", "established")
        assert opened.slot == followed.slot == world.slot(client_port)


def test_fragments(world: World) -> None:
    waiting = world.run(fragment(32))
    first = world.run(fragment(0))
    later = world.run(fragment(32))
    verdicts = [outcome.verdict for outcome in (waiting, first, later)]
    assert verdicts == ["fragment_held", "fragments_released", "fragment"]
    assert [outcome.slot for outcome in (waiting, first, later)] == [None, None, w.B]
    assert {outcome.row for outcome in (waiting, first, later)} == {VIPS[VIP]}


def test_all_cpus_together(world: World) -> None:
    cpus = os.sched_getaffinity(0)
    frame = segment(w.UNIQUE)
    try:
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            world.kernel.program.test_run(frame, repeat=10 * cpu + 1)
    finally:
        os.sched_setaffinity(0, cpus)
    packets = sum(10 * cpu + 1 for cpu in cpus)
    assert world.counts() == {
        (VIPS[VIP], w.B, Verdict.UNIQUE): (packets, packets * len(frame)),
    }


# ---- places that become another's ----


def test_a_slot_that_another_host_gets_starts_anew(world: World) -> None:
    world.send(segment(w.UNIQUE), segment(w.UNIQUE, vip=VIP6), segment(w.ONLY_A), b"\0" * 14)
    before = world.counts()
    world.kernel.set_host(w.B, hostrow(9, PathKind.L2, PathKind.L2))
    moved = dict(before)
    for vip in VIPS.values():
        moved[vip, PAST_SLOT, Verdict.UNIQUE] = moved.pop((vip, w.B, Verdict.UNIQUE))
    assert world.counts() == moved
    assert world.run(segment(w.UNIQUE)).slot == w.B
    world.kernel.set_host(w.B, hostrow(10, PathKind.L2, PathKind.L2))
    assert world.counts()[VIPS[VIP], PAST_SLOT, Verdict.UNIQUE][0] == 2


def test_a_path_that_changes_starts_anew(world: World) -> None:
    world.send(segment(w.UNIQUE), segment(w.UNIQUE, vip=VIP6))
    world.kernel.set_host(w.B, hostrow(3, PathKind.IPIP, PathKind.L2))
    packets = {(row, slot): counted[0] for (row, slot, _), counted in world.counts().items()}
    assert packets == {(VIPS[VIP], PAST_SLOT): 1, (VIPS[VIP6], w.B): 1}


def test_a_host_that_changes_otherwise_counts_on(world: World) -> None:
    world.send(segment(w.UNIQUE))
    before = world.counts()
    row = hostrow(3, PathKind.L2, PathKind.L2)
    world.kernel.set_host(w.B, HostRow(row.ipv4, row.ipv6, 7))
    world.kernel.set_host(w.B, HostRow(row.ipv4, Hop(None, PathKind.NONE), 7))
    assert world.counts() == before


def test_a_row_that_another_vip_gets_starts_anew(world: World) -> None:
    world.send(segment(w.UNIQUE), segment(w.CLOSED), segment(w.UNIQUE, vip=VIP6))
    world.kernel.delete_vip(VIP)
    assert world.counts()[VIPS[VIP], w.B, Verdict.UNIQUE][0] == 1
    world.kernel.set_vip(STRANGER, VIPS[VIP], w.MAC)
    packets = {key: counted[0] for key, counted in world.counts().items()}
    assert packets == {
        (NO_ROW, PAST_SLOT, Verdict.UNIQUE): 1,
        (NO_ROW, PAST_SLOT, Verdict.NO_ROUTE): 1,
        (VIPS[VIP6], w.B, Verdict.UNIQUE): 1,
    }


def test_a_vip_that_returns_to_its_row_counts_on(world: World) -> None:
    world.send(segment(w.UNIQUE))
    before = world.counts()
    world.kernel.delete_vip(VIP)
    world.kernel.set_vip(VIP, VIPS[VIP], w.MAC)
    assert world.counts() == before


def hostrow(number: int, path: int, path6: int) -> HostRow:
    """As World's, of the same number."""
    ipv4 = Hop(IPv4Address("10.0.0.0") + number, path, 1)
    return HostRow(ipv4, Hop(IPv6Address("fd00::") + number, path6, 1), 100)


# ---- on a wire ----


def test_bytes_are_those_of_the_interface(wire: Wire, kernel: DistributorKernel) -> None:
    before, received = total(kernel), statistics()
    wire.send(w.ip6_frame(bytes(60)), datagram(w.CLOSED), arp(1, w.MAC, VIP, VIP))
    wire.send(segment(w.SHARED), segment(w.UNIQUE, data=bytes(801)))
    wire.receive()
    wire.receive()  # both are through
    packets, length = (now - old for now, old in zip(statistics(), received, strict=True))
    assert packets == 5
    after = total(kernel)
    assert (after["packets"] - before["packets"], after["bytes"] - before["bytes"]) == (5, length)


def total(kernel: DistributorKernel) -> Counter[str]:
    counts = kernel.counts()
    return Counter(packets=sum(c.packets for c in counts), bytes=sum(c.bytes for c in counts))


def statistics() -> tuple[int, int]:
    """Packets and bytes that `lan` received, as the kernel counts them."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    figures = next(line.split(":")[1].split() for line in lines if line.strip().startswith("lan:"))
    return int(figures[1]), int(figures[0])


def test_the_next_daemon_counts_on(wire: Wire, pins: Path, kernel: DistributorKernel) -> None:
    wire.send(segment(w.UNIQUE))
    wire.receive()
    before = kernel.counts()
    with closing(attach(wire, pins)) as second:
        assert second.counts() == before
        wire.send(segment(w.UNIQUE))
        wire.receive()
        assert second.counters()["unique"] == 2


def test_none_has_a_place_of_its_own() -> None:
    assert len({NO_SLOT, PAST_SLOT, *range(abi.MAX_HOSTS)}) == abi.COUNTED_SLOTS
    assert NO_ROW == abi.COUNTED_ROWS - 1
