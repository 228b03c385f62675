# SPDX-License-Identifier: Apache-2.0
"""R6: what one connection's packets meet, one after another, while the tables change."""

from __future__ import annotations

import time

import pytest

from anyport.decide.rows import RouteKind, RouteRow
from anyport.kernel import abi
from anyport.kernel.abi import ConnectionState
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.world import (
    CLIENT,
    PASSED,
    REDIRECTED,
    VIP,
    World,
    datagram,
    distributed,
    segment,
)
from tests.support.packets import ACK, FIN, PSH, RST, SYN, arp

NONE = RouteRow(RouteKind.NONE)


def test_a_connection_from_syn_to_fin(world: World) -> None:
    states = []
    for flags in (SYN, ACK, PSH | ACK, FIN | ACK, ACK):
        world.send(segment(w.SHARED, flags))
        connection = world.connection()
        assert connection is not None
        states.append(connection.state.name)
    assert states == ["NEW", "ESTABLISHED", "ESTABLISHED", "CLOSING", "CLOSING"]


LIVES = {
    # The client's flags, what becomes of the packet, and the connection's state after it.
    "the server closes first": [
        (SYN, "selected", "NEW"),
        (ACK, "established", "ESTABLISHED"),
        (PSH | ACK, "established", "ESTABLISHED"),
        (ACK, "established", "ESTABLISHED"),
        (FIN | ACK, "established", "CLOSING"),
    ],
    "both close at once": [
        (SYN, "selected", "NEW"),
        (ACK, "established", "ESTABLISHED"),
        (FIN | ACK, "established", "CLOSING"),
        (ACK, "established", "CLOSING"),
        (FIN | ACK, "established", "CLOSING"),
        (ACK, "established", "CLOSING"),
    ],
    "half-closed, and the server talks on": [
        (SYN, "selected", "NEW"),
        (ACK, "established", "ESTABLISHED"),
        (FIN | ACK, "established", "CLOSING"),
        *[(ACK, "established", "CLOSING")] * 5,
    ],
    "reset, and a segment that was under way": [
        (SYN, "selected", "NEW"),
        (PSH | ACK, "established", "ESTABLISHED"),
        (RST | ACK, "established", "RESET"),
        (PSH | ACK, "established", "RESET"),
        (FIN | ACK, "established", "RESET"),
    ],
    "the four-tuple again, in TIME_WAIT": [
        (SYN, "selected", "NEW"),
        (ACK, "established", "ESTABLISHED"),
        (FIN | ACK, "established", "CLOSING"),
        (ACK, "established", "CLOSING"),
        (SYN, "established", "NEW"),
        (ACK, "established", "ESTABLISHED"),
    ],
    "the four-tuple again, after a reset": [
        (SYN, "selected", "NEW"),
        (RST, "established", "RESET"),
        (SYN, "established", "NEW"),
        (SYN, "established", "NEW"),
        (ACK, "established", "ESTABLISHED"),
    ],
    "refused, and tried again": [(SYN, "selected", "NEW"), *[(SYN, "established", "NEW")] * 3],
    "opened from both ends at once": [
        (SYN, "selected", "NEW"),
        (SYN | ACK, "established", "ESTABLISHED"),
        (ACK, "established", "ESTABLISHED"),
    ],
}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
@pytest.mark.parametrize("vip", w.VIPS, ids=["ipv4", "ipv6"])
def test_a_life(shared_world: World, vip: Address, life: list[tuple[int, str, str]]) -> None:
    """The second of three turns, so that no other packet goes to its target by chance."""
    world = shared_world
    world.forget()
    world.kernel.set_selection(2, 1, [w.HERE, w.A, w.B])  # the first turn is next
    world.send(w.segment(w.TURNS, client_port=4999, vip=vip))
    for flags, verdict, state in life:
        data = b"GET /" if flags & PSH else b""
        assert world.send(w.segment(w.TURNS, flags, vip=vip, data=data)) == [verdict]
        connection = world.connection()
        assert connection is not None
        assert (connection.slot, connection.state.name) == (w.A, state)


@pytest.mark.parametrize("vip", w.VIPS, ids=["ipv4", "ipv6"])
def test_tcp_fast_open(shared_world: World, vip: Address) -> None:
    """RFC 7413: a SYN with data is a SYN; sent again, perhaps without, it follows the first."""
    shared_world.forget()
    frames = [w.segment(w.TURNS, vip=vip, data=b"GET /"), w.segment(w.TURNS, vip=vip)]
    assert shared_world.send(*frames) == ["selected", "established"]


@pytest.mark.parametrize("vip", w.VIPS, ids=["ipv4", "ipv6"])
def test_unique_distributed_and_unique_again(world: World, vip: Address) -> None:
    """A connection stays with the owner all the time; meanwhile new ones go to the targets."""
    world.send(w.segment(w.UNIQUE, vip=vip), w.segment(w.UNIQUE, ACK, vip=vip))
    world.route(w.UNIQUE, distributed(3, w.HERE))
    assert world.send(w.segment(w.UNIQUE, ACK, vip=vip)) == ["established"]
    assert world.run(w.segment(w.UNIQUE, client_port=5001, vip=vip)).action == PASSED
    assert world.run(w.segment(w.UNIQUE, ACK, client_port=5001, vip=vip)).action == PASSED
    world.route(w.UNIQUE, w.ROUTES[w.UNIQUE])
    assert world.run(w.segment(w.UNIQUE, ACK, vip=vip)).action == REDIRECTED
    assert world.slot() == w.B


def test_what_is_remembered(world: World) -> None:
    tick = 1 << abi.TICK_SHIFT
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - 2 * tick  # the clock it reads is coarse
    world.send(segment(w.ONLY_A))
    connection = world.connection()
    assert connection is not None
    assert before < connection.seen_ns < time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert (connection.client, connection.client_port) == (CLIENT, 5000)
    assert (connection.vip, connection.port) == (VIP, w.ONLY_A)
    assert (connection.protocol, connection.slot) == (Protocol.TCP, w.A)


def test_a_retransmitted_syn_establishes_nothing(world: World) -> None:
    world.send(segment(w.SHARED), segment(w.SHARED))
    connection = world.connection()
    assert connection is not None
    assert connection.state is ConnectionState.NEW


def test_rst_closes(world: World) -> None:
    assert world.send(segment(w.SHARED), segment(w.SHARED, RST)) == ["selected", "established"]
    connection = world.connection()
    assert connection is not None
    assert connection.state is ConnectionState.RESET


def test_rst_closes_a_unique_port_s_connection(world: World) -> None:
    assert world.send(segment(w.UNIQUE), segment(w.UNIQUE, RST)) == ["unique", "unique"]
    connection = world.connection()
    assert connection is not None
    assert connection.state is ConnectionState.RESET


def test_a_closed_connection_begins_again(world: World) -> None:
    world.send(segment(w.SHARED), segment(w.SHARED, FIN | ACK), segment(w.SHARED))
    connection = world.connection()
    assert connection is not None
    assert connection.state is ConnectionState.NEW


def test_a_stray_syn_leaves_an_established_connection_alone(world: World) -> None:
    world.send(segment(w.SHARED), segment(w.SHARED, ACK), segment(w.SHARED))
    connection = world.connection()
    assert connection is not None
    assert connection.state is ConnectionState.ESTABLISHED


def test_retransmitted_syn_goes_where_the_first_went(world: World) -> None:
    """Also by round robin, whose turn has gone on meanwhile."""
    world.send(segment(w.TURNS))
    first = world.slot()
    verdicts = []
    for other in range(6000, 6004):
        world.send(segment(w.TURNS, client_port=other))
        verdicts += world.send(segment(w.TURNS))
        assert world.slot() == first
    assert verdicts == ["established"] * 4


def test_syn_to_a_slot_that_is_no_target_any_more_is_selected_anew(world: World) -> None:
    world.send(segment(w.ONLY_A))
    world.kernel.set_selection(5, 0, [w.B])
    world.route(w.ONLY_A, distributed(5, w.B))
    assert world.send(segment(w.ONLY_A), segment(w.ONLY_A)) == ["selected", "established"]
    assert world.slot() == w.B


def test_connection_outlives_its_listener(world: World) -> None:
    """The port goes on with another target only; then with none."""
    world.send(segment(w.ONLY_A), segment(w.ONLY_A, ACK))
    world.kernel.set_selection(5, 0, [w.B])
    world.route(w.ONLY_A, distributed(5, w.B))
    assert world.send(segment(w.ONLY_A, ACK | PSH, data=b"x")) == ["established"]
    world.route(w.ONLY_A, NONE)
    outcome = world.run(segment(w.ONLY_A, FIN | ACK))
    assert (outcome.verdict, outcome.action) == ("established", REDIRECTED)
    assert world.slot() == w.A


def test_syn_to_a_closed_port_is_refused_here(world: World) -> None:
    """R8: whatever is still remembered of the client's port."""
    world.send(segment(w.ONLY_A))
    world.route(w.ONLY_A, NONE)
    outcome = world.run(segment(w.ONLY_A))
    assert (outcome.verdict, outcome.action) == ("no_route", PASSED)


def test_datagrams_stay_while_their_host_is_a_target(world: World) -> None:
    world.send(datagram(w.ONLY_A))
    world.route(w.ONLY_A, distributed(0, w.A, w.B), Protocol.UDP)
    assert world.send(datagram(w.ONLY_A), datagram(w.ONLY_A)) == ["established", "established"]
    assert world.slot() == w.A


def test_datagrams_leave_a_host_that_is_no_target_any_more(world: World) -> None:
    """No handshake would ever end the flow: it would go to a closed port for ever."""
    world.send(datagram(w.ONLY_A), datagram(w.ONLY_A))
    world.kernel.set_selection(5, 0, [w.B])
    world.route(w.ONLY_A, distributed(5, w.B), Protocol.UDP)
    assert world.send(datagram(w.ONLY_A), datagram(w.ONLY_A)) == ["selected", "established"]
    assert world.slot() == w.B


def test_datagrams_stay_when_the_route_is_gone(world: World) -> None:
    world.send(datagram(w.ONLY_A))
    world.route(w.ONLY_A, NONE, Protocol.UDP)
    assert world.send(datagram(w.ONLY_A)) == ["established"]


def test_a_udp_flow_silent_for_long_enough_is_selected_anew(world: World) -> None:
    """Every datagram comes after a silence of 0 s or more, so none of these is remembered."""
    world.send(datagram(w.TURNS))
    assert world.send(datagram(w.TURNS)) == ["established"]
    world.kernel.set_vip(VIP, 0, w.MAC, udp_idle=0)
    slots = []
    for _ in range(3):
        assert world.send(datagram(w.TURNS)) == ["selected"]
        slots.append(world.slot())
    assert sorted(slots) == [w.HERE, w.A, w.B]
    world.route(w.TURNS, NONE, Protocol.UDP)
    assert world.send(datagram(w.TURNS)) == ["no_route"]


def test_a_silent_tcp_connection_stays(world: World) -> None:
    """Half-closed ones are idle for hours."""
    world.kernel.set_vip(VIP, 0, w.MAC, udp_idle=0)
    world.send(segment(w.TURNS))
    first = world.slot()
    assert world.send(segment(w.TURNS), segment(w.TURNS, ACK)) == ["established"] * 2
    assert world.slot() == first


def test_unique_beats_a_stale_connection(world: World) -> None:
    """IBM PM76397: the more specific entry won, and the flow went nowhere."""
    world.send(segment(w.AT_HOME), segment(w.AT_HOME, ACK))
    assert world.slot() == w.HERE
    world.route(w.AT_HOME, RouteRow(RouteKind.UNIQUE, w.B, w.mask(w.B)))
    for flags in (SYN, ACK, FIN | ACK):
        outcome = world.run(segment(w.AT_HOME, flags))
        assert (outcome.verdict, outcome.action) == ("unique", REDIRECTED)


def test_unique_connections_are_remembered_with_the_owner(world: World) -> None:
    """Should the port come to be distributed, or lose its route, they stay (R6)."""
    world.send(segment(w.UNIQUE), segment(w.UNIQUE, ACK))
    owner = world.slot()
    world.route(w.UNIQUE, w.distributed(3, w.HERE))
    assert world.send(segment(w.UNIQUE, ACK)) == ["established"]
    world.route(w.UNIQUE, RouteRow(RouteKind.NONE))
    assert world.send(segment(w.UNIQUE, ACK)) == ["established"]
    assert world.slot() == owner


def test_an_unknown_packet_to_a_unique_port_is_not_remembered(world: World) -> None:
    assert world.send(segment(w.UNIQUE, ACK)) == ["unique"]
    assert list(world.kernel.connections()) == []


def test_a_syn_does_not_move_a_live_connection(world: World) -> None:
    """Late or forged, after the target has closed its listener: the target challenges it."""
    world.send(segment(w.SHARED), segment(w.SHARED, ACK))
    before = world.slot()
    world.route(w.SHARED, w.distributed(3, w.HERE))
    assert world.send(segment(w.SHARED)) == ["established"]
    assert world.send(segment(w.SHARED, RST), segment(w.SHARED)) == ["established", "selected"]
    assert world.slot() != before


def test_unknown_and_refused_packets_remember_nothing(world: World) -> None:
    world.kernel.set_selection(9, 0, [64])
    world.send(segment(w.SHARED, ACK), segment(w.CLOSED), segment(w.CLOSED, ACK))
    world.send(segment(w.TO_EMPTY_TABLE), segment(w.TO_ABSENT_TABLE))
    assert list(world.kernel.connections()) == []


def test_protocols_and_ports_are_different_connections(world: World) -> None:
    flows = (segment(w.SHARED), datagram(w.SHARED), segment(w.SHARED, client_port=5001))
    assert world.send(*flows, *flows) == ["selected"] * 3 + ["established"] * 3


def test_established_connection_survives_a_new_selection_table(world: World) -> None:
    world.send(segment(w.ONLY_A))
    world.kernel.set_selection(1, 0, [w.B])
    assert world.send(segment(w.ONLY_A, ACK)) == ["established"]
    assert world.slot() == w.A


def test_forgotten_slots_take_their_connections_with_them(world: World) -> None:
    for client_port in range(5000, 5040):
        world.send(segment(w.SHARED, client_port=client_port))
    to_a = sum(c.slot == w.A for c in world.kernel.connections())
    assert world.kernel.forget_connections({w.A}) == to_a
    assert {c.slot for c in world.kernel.connections()} == {w.B}


def test_a_full_table_forgets_the_oldest_and_takes_the_new() -> None:
    world = World(connections=256)
    try:
        frames = [segment(w.SHARED, client_port=port) for port in range(2000, 5000)]
        assert set(world.send(*frames)) == {"selected"}
        assert world.connection(4999) is not None
        assert world.connection(2000) is None
    finally:
        world.close()


def test_unfenced_goes_on(world: World) -> None:
    assert not world.kernel.fenced(0)
    rival = arp(1, bytes.fromhex("02000000cc01"), VIP, VIP)
    assert world.send(rival, segment(w.SHARED)) == ["fenced", "drop_fenced"]
    assert world.kernel.fenced(0)
    world.kernel.unfence(0)
    assert world.send(segment(w.SHARED)) == ["selected"]


def test_fence_is_per_vip(world: World) -> None:
    other = VIP + 1
    world.kernel.create_routes(1)
    world.kernel.set_vip(other, 1, w.MAC)
    assert world.send(arp(1, bytes.fromhex("02000000cc01"), other, other)) == ["fenced"]
    assert (world.kernel.fenced(0), world.kernel.fenced(1)) == (False, True)
    assert world.send(segment(w.SHARED)) == ["selected"]
