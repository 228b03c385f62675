# SPDX-License-Identifier: Apache-2.0
"""After a takeover, when nothing waits any more: what of connections that no host has named goes
to the host that was absent and could not name its own, what does not, and what ends that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest

from anyport.decide.rows import RouteKind, RouteRow
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.cases import Case, dropped, judge, on, same
from tests.packet.reference.world import ModelWorld
from tests.packet.test_fragments import fragments
from tests.packet.test_gathering import NEVER, enter, row
from tests.packet.test_icmp import (
    FRAGMENTATION_NEEDED,
    PORT_UNREACHABLE,
    PORT_UNREACHABLE6,
    TOO_BIG,
    error,
    inside,
    sent,
)
from tests.packet.twin import Connection, connections, known
from tests.packet.world import MAC, OUTER, OUTER6, REDIRECTED, VIP, VIP6, VIPS, World, in_outer
from tests.support.packets import ACK, FIN, PSH, RST, SYN, one_hop_on, tcp, udp

families = pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])
WAYS = {"l2": w.B, "ipip": w.TUNNEL, "ipip of the other family": w.CROSSED, "here": w.HERE}
"""How the absent host is reached, and its slot."""
PORTS = {
    "hash": w.SHARED,
    "another is the only target": w.ONLY_A,
    "by turns": w.TURNS,
    "the target is here": w.AT_HOME,
    "fallback": w.FALLBACK,
    "no listener any more": w.CLOSED,
}
SEGMENTS = {
    "ACK": (ACK, b""),
    "data": (ACK | PSH, b"GET /"),
    "FIN": (FIN | ACK, b""),
    "RST": (RST, b""),
    "SYN and ACK": (SYN | ACK, b""),
    "no flags at all": (0, b""),
}
STRANGER = VIP + 5


def icmp_error(port: int, vip: Address, protocol: int = 6) -> bytes:
    """About an answer from the port: too big, or of a datagram that nobody wants it."""
    if protocol == 17:
        kind = PORT_UNREACHABLE6 if vip == VIP6 else PORT_UNREACHABLE
        return error(kind, inside(17, udp(port, 5000, b"answer"), vip), vip)
    kind = TOO_BIG if vip == VIP6 else FRAGMENTATION_NEEDED
    return error(kind, inside(6, sent(port), vip), vip)


def sent_to(slot: int, description: str, frame: bytes, verdict: str) -> Case:
    """By the path of the slot, one hop on."""
    if slot == w.HERE:
        return same(description, frame, verdict)
    case = on(description, frame, verdict)
    if slot == w.B:
        return case
    outer = OUTER if (frame[12:14] == b"\x08\x00") == (slot == w.TUNNEL) else OUTER6
    return replace(case, out=in_outer(one_hop_on(frame), outer))


def of_nobody(vip: Address, slot: int) -> list[Case]:
    """Of connections that nobody has named: to the absent host."""
    cases = [
        (f"{name}, {what}", w.segment(port, flags, vip=vip, data=data), "absent")
        for what, port in PORTS.items()
        for name, (flags, data) in SEGMENTS.items()
    ]
    cases += [
        ("the last but one hop", w.segment(w.SHARED, ACK, vip=vip, ttl=2), "absent"),
        *((f"error, {what}", icmp_error(port, vip), "icmp_error") for what, port in PORTS.items()),
    ]
    return named(vip, [sent_to(slot, *case) for case in cases])


def of_others(vip: Address) -> list[Case]:
    """As ever: what begins, what has an owner, what no takeover asks for."""

    def segment(port: int, flags: int = SYN) -> bytes:
        return w.segment(port, flags, vip=vip)

    cases = [
        on("SYN", segment(w.SHARED), "selected"),
        on("SYN, another is the only target", segment(w.ONLY_A), "selected"),
        same("SYN, the target is here", segment(w.AT_HOME), "selected"),
        on("SYN, fallback", segment(w.FALLBACK), "fallback"),
        same("SYN, no listener any more", segment(w.CLOSED), "no_route"),
        on("unique port", segment(w.UNIQUE, ACK), "unique"),
        on("unique port, RST", segment(w.UNIQUE, RST), "unique"),
        same("unique port, here", segment(w.UNIQUE_HERE, ACK), "unique"),
        on("datagram", w.datagram(w.SHARED, vip=vip), "selected"),
        on("datagram, fallback", w.datagram(w.FALLBACK, vip=vip), "fallback"),
        same("datagram, no listener", w.datagram(w.CLOSED, vip=vip), "no_route"),
        on("error, unique port", icmp_error(w.UNIQUE, vip), "icmp_error"),
        same("error, unique port, here", icmp_error(w.UNIQUE_HERE, vip), "icmp_error"),
        on("error about a datagram", icmp_error(w.SHARED, vip, 17), "icmp_error"),
        same("error about a datagram, here", icmp_error(w.AT_HOME, vip, 17), "icmp_error"),
        same("error about a datagram, none", icmp_error(w.CLOSED, vip, 17), "no_route"),
    ]
    return named(vip, cases)


def named(vip: Address, cases: list[Case]) -> list[Case]:
    return [replace(case, description=f"IPv{vip.version}: {case.description}") for case in cases]


@pytest.fixture(scope="module", params=["tc", "xdp", "model"])
def absent(request: pytest.FixtureRequest) -> Iterator[World]:
    """Whose slot it is each test says."""
    world = ModelWorld() if request.param == "model" else World(hook=request.param)
    yield world
    world.close()


def begin(world: World, slot: int | None) -> None:
    """Nothing is known, nothing waits, and the slot is the absent host's."""
    world.forget()
    for vip in VIPS:
        world.kernel.gather(vip, 0)
        world.kernel.set_absent(vip, slot)


def remembered(world: World) -> set[Connection]:
    return known(world) if isinstance(world, ModelWorld) else connections(world)


@pytest.mark.parametrize(
    ("slot", "case"),
    [
        pytest.param(slot, case, id=f"{way}-{case.description}")
        for way, slot in WAYS.items()
        for vip in VIPS
        for case in of_nobody(vip, slot)
    ],
)
def test_what_is_nobodys_goes_there_and_is_not_remembered(
    absent: World, slot: int, case: Case
) -> None:
    begin(absent, slot)
    assert judge(absent, case).slot == slot
    assert remembered(absent) == set()


@pytest.mark.parametrize("case", of_others(VIP) + of_others(VIP6), ids=lambda c: c.description)
def test_all_else_goes_where_it_always_goes(absent: World, case: Case) -> None:
    begin(absent, w.TUNNEL)
    assert judge(absent, case).slot != w.TUNNEL


@families
def test_a_known_connection_stays(absent: World, vip: Address) -> None:
    """Begun here, or named by its host; also where no host listens any more."""
    begin(absent, w.B)
    absent.send(w.segment(w.ONLY_A, client_port=6000, vip=vip))
    enter(absent, vip, w.A, row(vip, w.CLOSED))
    for port, client_port in ((w.ONLY_A, 6000), (w.CLOSED, 5000)):
        for flags in (ACK, ACK | PSH, FIN | ACK, RST):
            outcome = absent.run(w.segment(port, flags, client_port, vip=vip))
            assert (outcome.verdict, outcome.slot) == ("established", w.A)
    about = absent.run(icmp_error(w.CLOSED, vip))
    assert (about.verdict, about.slot) == ("icmp_error", w.A)


@families
def test_while_hosts_are_asked_it_waits(absent: World, vip: Address) -> None:
    """But an RST and an ICMP error: nobody repeats them. They may be about anybody's."""
    begin(absent, w.B)
    absent.kernel.gather(vip, NEVER)
    for port in PORTS.values():
        for flags in (ACK, FIN | ACK, SYN | ACK, 0):
            frame = w.segment(port, flags, vip=vip)
            assert judge(absent, dropped("", frame, "drop_gathering")).slot is None
            assert absent.run(w.segment(port, RST, vip=vip)).verdict != "absent"
    assert absent.run(icmp_error(w.ONLY_A, vip)).slot == w.A
    absent.kernel.gather(vip, 0)
    assert absent.run(w.segment(w.SHARED, ACK, vip=vip)).slot == w.B


@families
def test_nobody_is_absent_any_more(absent: World, vip: Address) -> None:
    begin(absent, w.B)
    segments = [w.segment(port, ACK, vip=vip) for port in (w.ONLY_A, w.CLOSED)]
    assert absent.send(*segments) == ["absent", "absent"]
    absent.kernel.set_absent(vip, None)
    assert absent.run(segments[0]).slot == w.A
    assert absent.send(*segments) == ["hashed", "no_route"]
    assert absent.run(icmp_error(w.ONLY_A, vip)).slot == w.A
    assert absent.send(icmp_error(w.CLOSED, vip)) == ["no_route"]
    assert remembered(absent) == set()


@families
def test_of_one_vip_alone(absent: World, vip: Address) -> None:
    begin(absent, None)
    absent.kernel.set_absent(vip, w.B)
    verdicts = {v: absent.run(w.segment(w.ONLY_A, ACK, vip=v)).verdict for v in VIPS}
    assert verdicts == dict.fromkeys(VIPS, "hashed") | {vip: "absent"}


@families
def test_the_rest_of_a_packet_goes_there_too(absent: World, vip: Address) -> None:
    begin(absent, w.B)
    for number, port in enumerate((w.ONLY_A, w.CLOSED)):
        whole = tcp(5000, port, ACK, data=bytes(100))
        first, *later = fragments(6, whole, vip, identification=50 + number)
        assert judge(absent, on("", first, "absent")).slot == w.B
        for frame in later:
            assert judge(absent, on("", frame, "fragment")).slot == w.B
        absent.kernel.set_absent(vip, None)
        assert judge(absent, on("", later[0], "fragment")).slot == w.B
        absent.kernel.set_absent(vip, w.B)


@families
def test_the_rest_of_a_packet_stays_here_too(absent: World, vip: Address) -> None:
    begin(absent, w.HERE)
    first, *later = fragments(6, tcp(5000, w.SHARED, ACK, data=bytes(100)), vip, identification=60)
    judge(absent, same("", first, "absent"))
    for frame in later:
        judge(absent, same("", frame, "fragment"))


@families
def test_what_cannot_get_there(absent: World, vip: Address) -> None:
    """No other host is tried."""
    for slot, ttl, verdict in (
        (w.NO_PATH, 64, "drop_no_path"),
        (w.ABSENT, 64, "drop_table"),
        (w.B, 1, "drop_ttl"),
        (w.TUNNEL, 1, "drop_ttl"),
    ):
        begin(absent, slot)
        for port in (w.SHARED, w.CLOSED):
            judge(absent, dropped("", w.segment(port, ACK, vip=vip, ttl=ttl), verdict))
        if ttl > 1:
            judge(absent, dropped("", icmp_error(w.SHARED, vip), verdict))


# ---- what it belongs to ----


@pytest.fixture(params=["tc", "model"])
def fresh(request: pytest.FixtureRequest) -> Iterator[World]:
    with closing(ModelWorld() if request.param == "model" else World()) as world:
        yield world


@families
def test_it_stays_with_the_vip_in_its_row(fresh: World, vip: Address) -> None:
    """Slot 0 as well; whatever else of the row changes."""
    for slot in (w.HERE, w.B):
        fresh.kernel.set_absent(vip, slot)
        fresh.kernel.set_vip(vip, VIPS[vip], MAC, 30)
        fresh.kernel.set_vip(vip, VIPS[vip], MAC, gathering=NEVER)
        fresh.kernel.gather(vip, 0)
        assert fresh.kernel.absent(vip) == slot
        assert fresh.run(w.segment(w.ONLY_A, ACK, vip=vip)).slot == slot
    fresh.kernel.set_absent(vip, None)
    assert fresh.kernel.absent(vip) is None


def test_it_goes_with_the_vip(fresh: World) -> None:
    """Deleted, or in another row."""
    fresh.kernel.create_routes(3)
    deleted = partial(fresh.kernel.delete_vip, VIP)
    moved = partial(fresh.kernel.set_vip, VIP, 3, MAC)
    for leave in (deleted, moved):
        fresh.kernel.set_absent(VIP, w.B)
        leave()
        fresh.kernel.set_vip(VIP, VIPS[VIP], MAC)
        assert fresh.kernel.absent(VIP) is None
        assert fresh.send(w.segment(w.CLOSED, ACK)) == ["no_route"]


def test_another_vip_in_the_row_has_it_not(fresh: World) -> None:
    fresh.kernel.set_absent(VIP, w.B)
    fresh.kernel.set_vip(STRANGER, VIPS[VIP], MAC)
    assert [fresh.kernel.absent(vip) for vip in (VIP, STRANGER, VIP6)] == [None] * 3
    fresh.kernel.set_absent(VIP, w.B)
    assert fresh.kernel.absent(VIP) is None
    assert fresh.send(w.segment(w.CLOSED, ACK, vip=STRANGER)) == ["no_route"]


def test_the_route_that_comes_meanwhile_changes_nothing(fresh: World) -> None:
    """But a unique one, whose owner has all of the port."""
    fresh.kernel.set_absent(VIP, w.B)
    for route, slot in (
        (w.distributed(1, w.A), w.B),
        (RouteRow(RouteKind.UNIQUE, w.A, w.mask(w.A)), w.A),
        (RouteRow(RouteKind.NONE), w.B),
    ):
        fresh.route(w.CLOSED, route)
        outcome = fresh.run(w.segment(w.CLOSED, ACK))
        assert (outcome.action, outcome.slot) == (REDIRECTED, slot)
