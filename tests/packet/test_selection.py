# SPDX-License-Identifier: Apache-2.0
"""Which target a new connection gets: hash, round robin, and the fallback without a table."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections import Counter
from ipaddress import IPv4Address

import pytest

from anyport.decide.rows import NO_HOP, Hop, HostRow, Path, RouteKind, RouteRow
from anyport.kernel import abi
from tests.packet import world as w
from tests.packet.world import CLIENT, World, distributed, segment
from tests.support.packets import ACK

FLOWS = range(5000, 5400)


def chosen(world: World, port: int) -> dict[int, int]:
    """Client port -> slot, of a new connection each."""
    world.send(*(segment(port, client_port=client_port) for client_port in FLOWS))
    return {c.client_port: c.slot for c in world.kernel.connections() if c.port == port}


def siphash13(messages: list[bytes]) -> list[int]:
    """With key 0, by another implementation: CPython's hash of bytes, unseeded (PEP 456)."""
    if sys.hash_info.algorithm != "siphash13":
        pytest.skip("this Python hashes with " + sys.hash_info.algorithm)
    program = f"for m in {messages!r}: print(hash(m) % 2**64)"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    return [int(line) for line in done.stdout.split()]


def flow(client_port: int, port: int) -> bytes:
    """What of a flow is hashed: 21 bytes."""
    ports = struct.pack("<HHB", client_port, port, abi.Protocol.TCP)
    return abi.pack_address(CLIENT) + ports


def test_hash_is_siphash_of_the_flow() -> None:
    """So it is the same after a reload, on another host, and by another program."""
    world = World(hash_key=0)
    try:
        table = [w.HERE, w.A, w.B, w.A, w.A, w.B, w.B, w.HERE, w.A, w.B, w.HERE]
        world.kernel.set_selection(6, abi.SelectionMethod.HASH, table)
        world.route(w.SHARED, distributed(6, w.HERE, w.A, w.B))
        expected = siphash13([flow(client_port, w.SHARED) for client_port in FLOWS])
        slots = {port: table[h % len(table)] for port, h in zip(FLOWS, expected, strict=True)}
        assert chosen(world, w.SHARED) == slots
    finally:
        world.close()


def test_another_key_chooses_otherwise(world: World) -> None:
    other = World(hash_key=7 << 64)
    try:
        assert chosen(world, w.SHARED) != chosen(other, w.SHARED)
    finally:
        other.close()


def test_the_same_key_chooses_alike_after_a_reload(world: World) -> None:
    again = World(hash_key=7)
    try:
        assert chosen(world, w.SHARED) == chosen(again, w.SHARED)
    finally:
        again.close()


def test_the_largest_table(world: World) -> None:
    world.kernel.set_selection(6, abi.SelectionMethod.HASH, [w.A] * abi.SELECTION_SLOTS)
    world.route(w.SHARED, distributed(6, w.A))
    assert set(chosen(world, w.SHARED).values()) == {w.A}


def test_round_robin_takes_turns(world: World) -> None:
    slots = [slot for _, slot in sorted(chosen(world, w.TURNS).items())]
    assert slots[:6] == [w.HERE, w.A, w.B] * 2
    assert max(Counter(slots).values()) - min(Counter(slots).values()) <= 1


def test_an_unknown_packet_takes_no_turn(world: World) -> None:
    world.send(segment(w.TURNS, client_port=5000))
    world.send(*(segment(w.TURNS, ACK, client_port=6000 + i) for i in range(10)))
    world.send(segment(w.TURNS, client_port=5001))
    assert [world.slot(5000), world.slot(5001)] == [w.HERE, w.A]


def test_an_unknown_packet_of_a_round_robin_port_goes_by_weight(world: World) -> None:
    """Whose turn it was nobody knows; the mask, unlike the table, makes it the same each time."""
    world.kernel.set_selection(2, abi.SelectionMethod.ROUND_ROBIN, [w.A])
    world.route(w.TURNS, distributed(2, w.HERE))
    assert world.run(segment(w.TURNS, ACK)).action == w.PASSED


def test_an_unknown_packet_goes_where_its_syn_would(world: World) -> None:
    """The target is seen by its path: what is here is passed up, TTL untouched."""
    world.kernel.set_selection(6, abi.SelectionMethod.HASH, [w.HERE, w.A] * 50)
    world.route(w.SHARED, distributed(6, w.HERE, w.A))
    world.route(w.FALLBACK, RouteRow(RouteKind.FALLBACK, 0, w.mask(w.HERE, w.A)))
    for port in (w.SHARED, w.FALLBACK):
        frames = [segment(port, ACK, client_port=client_port) for client_port in FLOWS]
        local = [world.run(frame).action == w.PASSED for frame in frames]
        assert [slot == w.HERE for _, slot in sorted(chosen(world, port).items())] == local
        assert 0 < sum(local) < len(local)


def test_fallback_shares_by_weight(world: World) -> None:
    """Weights 1:3, 400 flows: the expected 100 within five standard deviations."""
    weigh(world, {w.A: 1, w.B: 3})
    counts = Counter(chosen(world, w.FALLBACK).values())
    assert counts.keys() == {w.A, w.B}
    assert abs(counts[w.A] - 100) < 5 * 8.7


def test_fallback_shares_equally_among_all_slots(world: World) -> None:
    slots = world.counted_slots = range(abi.MAX_HOSTS)
    weigh(world, dict.fromkeys(slots, 100))
    world.route(w.FALLBACK, RouteRow(RouteKind.FALLBACK, 0, 2**64 - 1))
    counts = Counter(chosen(world, w.FALLBACK).values())
    assert len(counts) > 55
    assert max(counts.values()) < 20


def test_fallback_moves_only_the_flows_of_the_host_that_goes(world: World) -> None:
    weigh(world, {w.HERE: 50, w.A: 100, w.B: 200})
    world.route(w.FALLBACK, RouteRow(RouteKind.FALLBACK, 0, w.mask(w.HERE, w.A, w.B)))
    before = chosen(world, w.FALLBACK)
    world.kernel.forget_connections({w.HERE, w.A, w.B})
    world.route(w.FALLBACK, RouteRow(RouteKind.FALLBACK, 0, w.mask(w.HERE, w.B)))
    after = chosen(world, w.FALLBACK)
    assert {p for p in FLOWS if before[p] != after[p]} == {p for p in FLOWS if before[p] == w.A}


def test_fallback_gives_a_host_of_no_weight_only_what_nobody_else_takes(world: World) -> None:
    weigh(world, {w.A: 0, w.B: 1})
    assert set(chosen(world, w.FALLBACK).values()) == {w.B}
    world.kernel.forget_connections({w.B})
    world.route(w.FALLBACK, RouteRow(RouteKind.FALLBACK, 0, w.mask(w.A)))
    assert set(chosen(world, w.FALLBACK).values()) == {w.A}


def weigh(world: World, weights: dict[int, int]) -> None:
    for slot, weight in weights.items():
        address = IPv4Address("10.0.1.0") + slot
        world.kernel.set_host(slot, HostRow(Hop(address, Path.L2, 1), NO_HOP, weight))
