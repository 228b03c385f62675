# SPDX-License-Identifier: Apache-2.0
"""What `anyport counters` says of packets that a real program has counted."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from anyport.daemon import counters
from anyport.daemon.counters import CounterRows
from anyport.decide.rows import MAX_HOSTS, Hop, HostRow, RouteKind, RouteRow
from anyport.decide.rows import Path as PathKind
from anyport.kernel.abi import Verdict
from anyport.metrics import packet_families
from anyport.model.definition import UDP_IDLE_SECONDS
from tests.packet import world as w
from tests.packet.world import MAC, VIP, VIP6, VIPS, World, datagram, segment
from tests.support.packets import ACK, ethernet

NAMES = {w.HERE: "here", w.A: "a"}
"""B has departed."""
LISTENED = {"opened": 3, "leaks_refused": 0}
TUNNELLED = {"decapsulated": 5, "drop_source": 0}


@pytest.fixture
def rows(world: World) -> CounterRows:
    return CounterRows(world.kernel, lambda: LISTENED, lambda: TUNNELLED, NAMES.get)


def told(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        tuple(row[key] for key in ("vip", "route", "path", "target", "reason", "packets"))
        for row in rows
    ]


def test_by_vip_route_path_target_and_reason(world: World, rows: CounterRows) -> None:
    syn = segment(w.ONLY_A)
    world.send(segment(w.UNIQUE, vip=VIP6), syn, segment(w.ONLY_A, ACK), segment(w.ONLY_A, ACK))
    world.send(segment(w.UNIQUE_HERE), segment(w.CLOSED), segment(w.UNIQUE, ttl=1))
    world.send(segment(w.TO_NO_PATH), ethernet(MAC, w.ROUTER_MAC, 0x88CC, bytes(46)))
    vip, vip6 = str(VIP), str(VIP6)
    assert told(rows.packets()) == [
        (vip, "unique", "local", "here", "unique", 1),
        (vip, "connection", "l2", "a", "established", 2),
        (vip, "distributed", "l2", "a", "selected", 1),
        (vip, None, "l2", "10.0.0.3", "drop_ttl", 1),
        (vip, None, None, "10.0.0.4", "drop_no_path", 1),
        (vip, "none", None, None, "no_route", 1),
        (vip6, "unique", "l2", "10.0.0.3", "unique", 1),
        (None, None, None, None, "not_ours", 1),
    ]
    assert rows.packets()[2]["bytes"] == len(syn)
    assert rows.summary() == {"to_targets": 5, "passed": 2, "answered": 0, "dropped": 2}


def test_to_the_absent_host(world: World, rows: CounterRows) -> None:
    world.kernel.set_absent(VIP, w.A)
    world.send(segment(w.TURNS, ACK), segment(w.CLOSED, ACK), segment(w.CLOSED))
    world.kernel.set_absent(VIP, w.NO_PATH)
    world.send(segment(w.CLOSED, ACK))
    assert told(rows.packets()) == [
        (str(VIP), "absent", "l2", "a", "absent", 2),
        (str(VIP), None, None, "10.0.0.4", "drop_no_path", 1),
        (str(VIP), "none", None, None, "no_route", 1),
    ]
    assert rows.summary() == {"to_targets": 2, "passed": 1, "answered": 0, "dropped": 1}


def test_what_went_to_a_host_that_is_no_more_is_not_the_next_ones(
    world: World, rows: CounterRows
) -> None:
    world.send(segment(w.UNIQUE))
    hop = Hop(IPv4Address("10.0.0.9"), PathKind.L2, 1)
    world.kernel.set_host(w.B, HostRow(hop, hop, 100))
    assert told(rows.packets()) == [(str(VIP), "unique", None, "(past)", "unique", 1)]


def test_for_slots_that_have_no_host(world: World, rows: CounterRows) -> None:
    """As tables that are at odds would have it: every packet shows, and where it was to go."""
    world.counted_slots = range(MAX_HOSTS)
    for port, slot in ((w.CLOSED, 40), (w.UNIQUE, 41)):
        world.route(port, RouteRow(RouteKind.UNIQUE, slot, w.mask(slot)))
        world.send(segment(port))
    vip, absent = str(VIP), (None, None)
    assert told(rows.packets()) == [
        (vip, *absent, "slot 40", "drop_no_path", 1),
        (vip, *absent, "slot 41", "drop_no_path", 1),
    ]


def test_a_deleted_vip_is_shown_until_its_row_is_anothers(world: World, rows: CounterRows) -> None:
    world.send(datagram(w.ONLY_A))
    world.kernel.delete_vip(VIP)
    assert told(rows.packets())[0][0] == str(VIP)
    world.kernel.set_vip(IPv4Address("10.9.9.9"), VIPS[VIP], MAC, UDP_IDLE_SECONDS)
    assert told(rows.packets()) == [(None, "distributed", None, "(past)", "selected", 1)]


def test_vips_in_their_order_whatever_their_rows(world: World, rows: CounterRows) -> None:
    lower = IPv4Address("10.0.0.5")
    world.kernel.set_vip(lower, 9, MAC)
    world.send(segment(w.CLOSED, vip=VIP6), segment(w.CLOSED), segment(w.CLOSED, vip=lower))
    assert [row["vip"] for row in rows.packets()] == [str(vip) for vip in (lower, VIP, VIP6)]


def test_zeros_are_hidden_and_shown(world: World, rows: CounterRows) -> None:
    world.send(segment(w.CLOSED), segment(w.CLOSED, vip=VIP6))
    assert [row["reason"] for row in rows.rows()] == [
        "no_route",
        "no_route",
        "decapsulated",
        "opened",
    ]
    every = rows.rows(zero=True)
    reasons = {row["reason"]: row["packets"] or row["events"] or 0 for row in every}
    zeros = {verdict.name.lower(): 0 for verdict in Verdict}
    assert reasons == zeros | {"no_route": 1} | TUNNELLED | LISTENED
    assert len(every) == len(Verdict) + 1 + len(TUNNELLED) + len(LISTENED)


def test_of_one_vip(world: World, rows: CounterRows) -> None:
    world.send(segment(w.CLOSED), segment(w.CLOSED, vip=VIP6))
    assert [row["vip"] for row in rows.rows(VIP6, zero=True)] == [str(VIP6)]


def test_every_verdict_has_one_outcome() -> None:
    """Who adds a verdict says here what became of the packet."""
    outcomes = [*counters.OUTCOMES.values(), counters.AGAIN]
    assert sorted(verdict for some in outcomes for verdict in some) == sorted(Verdict)


def test_prometheus(world: World, rows: CounterRows) -> None:
    frame = segment(w.UNIQUE_HERE)
    world.send(frame)
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in packet_families(rows.packets(zero=True))
        for sample in family.samples
    }
    labels = sorted([str(VIP), "unique", "local", "here", "unique"])
    assert samples["anyport_packets_total", *labels] == 1
    assert samples["anyport_bytes_total", *labels] == len(frame)
    assert samples["anyport_packets_total", "", "", "", "", "drop_ttl"] == 0
