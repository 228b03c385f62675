# SPDX-License-Identifier: Apache-2.0
"""While a new distributor asks hosts for their connections: what waits, what does not, and what
a host's word is worth."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from anyport.decide.rows import RouteKind, RouteRow
from anyport.kernel import abi
from anyport.kernel.connections import Entered, now_ns
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.cases import Case, dropped, judge, on, same
from tests.packet.reference.world import ModelWorld
from tests.packet.world import VIP, VIP6, VIPS, World
from tests.support.packets import ACK, FIN, PSH, RST, SYN

NEVER = 3600.0
CLIENT_PORT = 5000


def row(vip: Address, port: int = w.SHARED, client_port: int = CLIENT_PORT) -> bytes:
    client = w.CLIENT6 if vip.version == 6 else w.CLIENT
    return client.packed + struct.pack("!HH", client_port, port)


def enter(world: World, vip: Address, slot: int, *rows: bytes) -> Entered:
    return world.kernel.enter_connections(vip, VIPS[vip], slot, b"".join(rows))


def waiting(vip: Address) -> list[Case]:
    def segment(port: int, flags: int = SYN, data: bytes = b"") -> bytes:
        return w.segment(port, flags, vip=vip, data=data)

    cases = [
        dropped("of nothing known", segment(w.SHARED, ACK), "drop_gathering"),
        dropped("data", segment(w.SHARED, ACK | PSH, b"GET /"), "drop_gathering"),
        dropped("FIN", segment(w.SHARED, FIN | ACK), "drop_gathering"),
        dropped("SYN and ACK", segment(w.SHARED, SYN | ACK), "drop_gathering"),
        dropped("no flags at all", segment(w.SHARED, 0), "drop_gathering"),
        dropped("by turns", segment(w.TURNS, ACK), "drop_gathering"),
        dropped("fallback", segment(w.FALLBACK, ACK), "drop_gathering"),
        dropped("the target is here", segment(w.AT_HOME, ACK), "drop_gathering"),
        dropped("its listener has gone", segment(w.CLOSED, ACK), "drop_gathering"),
        on("RST: nobody repeats it, nobody answers it", segment(w.SHARED, RST), "hashed"),
        same("RST, no route", segment(w.CLOSED, RST), "no_route"),
        on("SYN: served at once", segment(w.SHARED), "selected"),
        on("SYN, fallback", segment(w.FALLBACK), "fallback"),
        same("SYN, no route", segment(w.CLOSED), "no_route"),
        on("datagram", w.datagram(w.SHARED, vip=vip), "selected"),
        on("unique port", segment(w.UNIQUE, ACK), "unique"),
        same("unique port, here", segment(w.UNIQUE_HERE, ACK), "unique"),
    ]
    return [replace(case, description=f"IPv{vip.version}: {case.description}") for case in cases]


@pytest.fixture(scope="module", params=["tc", "xdp", "model"])
def gathering(request: pytest.FixtureRequest) -> Iterator[World]:
    world = ModelWorld() if request.param == "model" else World(hook=request.param)
    for vip in VIPS:
        world.kernel.gather(vip, NEVER)
    yield world
    world.close()


@pytest.mark.parametrize("case", waiting(VIP) + waiting(VIP6), ids=lambda case: case.description)
def test_verdict(gathering: World, case: Case) -> None:
    gathering.forget()
    judge(gathering, case)


@pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])
def test_what_a_host_says_is_its_own_goes_there(gathering: World, vip: Address) -> None:
    """In either method, and for a port that has no listener any more."""
    gathering.forget()
    for port in (w.SHARED, w.TURNS, w.CLOSED):
        for slot, client_port in ((w.A, 6000), (w.B, 6001)):
            enter(gathering, vip, slot, row(vip, port, client_port))
            outcome = gathering.run(w.segment(port, ACK, client_port, vip=vip))
            assert (outcome.verdict, outcome.slot) == ("established", slot)


def test_a_connection_begun_here_is_known_here(gathering: World) -> None:
    gathering.forget()
    first = gathering.run(w.segment(w.SHARED))
    assert gathering.run(w.segment(w.SHARED, ACK)).slot == first.slot


# ---- the kernel's ----


def test_who_is_known_already_stays(world: World) -> None:
    """A connection that has begun here, by its SYN alone, and of two hosts the first to say so."""
    world.send(w.segment(w.ONLY_A))
    assert enter(world, VIP, w.B, row(VIP, w.ONLY_A)) == Entered(others=1, no_room=0)
    assert world.slot() == w.A
    assert enter(world, VIP, w.B, row(VIP, client_port=6000)) == Entered(0, 0)
    assert enter(world, VIP, w.A, row(VIP, client_port=6000)) == Entered(others=1, no_room=0)
    assert world.slot(6000) == w.B
    assert enter(world, VIP, w.B, row(VIP, client_port=6000)) == Entered(0, 0)  # again


@pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])
def test_a_whole_piece(vip: Address) -> None:
    # With a quarter of it, one random key in 20 leaves no room for one of them.
    world = World(connections=65536)
    try:
        size = len(row(vip))
        ports = range(10000, 10000 + abi.GATHERED_BYTES // size)
        said = b"".join(row(vip, client_port=port) for port in ports)
        assert len(said) == abi.GATHERED_BYTES
        assert enter(world, vip, w.B, said) == Entered(0, 0)
        known = {(c.client_port, c.vip, c.slot) for c in world.kernel.connections()}
        assert known == {(port, vip, w.B) for port in ports}
    finally:
        world.close()


def test_a_row_that_is_cut_off_is_not_read(world: World) -> None:
    said = row(VIP) + row(VIP, client_port=6000)[:-1]
    assert enter(world, VIP, w.B, said) == Entered(0, 0)
    assert [c.client_port for c in world.kernel.connections()] == [CLIENT_PORT]


def test_what_a_host_says_brings_it_no_new_connection(world: World) -> None:
    """It named a client's port before the client used it; it is no target of that port."""
    enter(world, VIP, w.B, row(VIP, w.ONLY_A))
    assert world.run(w.segment(w.ONLY_A)).slot == w.A
    world.route(w.CLOSED, RouteRow(RouteKind.NONE))
    enter(world, VIP, w.B, row(VIP, w.CLOSED))
    assert world.send(w.segment(w.CLOSED)) == ["no_route"]


def test_nor_does_it_just_after_a_tick(world: World) -> None:
    """Which the clock that packets take has not heard of yet."""
    for client_port in range(6000, 6005):
        before = now_ns()
        while now_ns() == before:
            pass
        enter(world, VIP, w.B, row(VIP, w.ONLY_A, client_port))
        assert world.run(w.segment(w.ONLY_A, client_port=client_port)).slot == w.A


def test_in_a_full_table_no_established_connection_gives_way() -> None:
    world = World(connections=64)
    try:
        own = range(2000, 2400)
        world.send(*(w.segment(w.ONLY_A, flags, p) for p in own for flags in (SYN, ACK)))
        before = {(c.client_port, c.slot) for c in world.kernel.connections()}
        said = [row(VIP, client_port=port) for port in range(10000, 11000)]
        assert enter(world, VIP, w.B, *said).no_room == len(said)
        assert {(c.client_port, c.slot) for c in world.kernel.connections()} == before
    finally:
        world.close()


def test_it_ends_by_itself(world: World) -> None:
    """In the kernel: the daemon may have died."""
    world.kernel.gather(VIP, 0.001)
    verdicts = iter(lambda: world.run(w.segment(w.SHARED, ACK)).verdict, "hashed")
    assert set(verdicts) <= {"drop_gathering"}


def test_a_definition_that_changes_does_not_end_it(world: World) -> None:
    world.kernel.gather(VIP, NEVER)
    world.kernel.set_vip(VIP, VIPS[VIP], w.MAC, 30)
    assert world.send(w.segment(w.SHARED, ACK)) == ["drop_gathering"]
    world.kernel.set_vip(VIP, VIPS[VIP], w.MAC, 30, gathering=0)
    assert world.send(w.segment(w.SHARED, ACK)) == ["hashed"]


def test_of_one_vip_alone(world: World) -> None:
    world.kernel.gather(VIP6, NEVER)
    assert world.send(w.segment(w.SHARED, ACK)) == ["hashed"]
    assert world.send(w.segment(w.SHARED, ACK, vip=VIP6)) == ["drop_gathering"]
