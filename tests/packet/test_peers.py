# SPDX-License-Identifier: Apache-2.0
"""No loops: what another distributor sent here goes up, whoever believes to distribute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.cases import OTHER_MAC, fence
from tests.packet.test_fragments import datagram as fragmented
from tests.packet.test_icmp import too_big
from tests.packet.world import CLIENT, MAC, PASSED, REDIRECTED, ROUTER_MAC, VIP, VIPS, World
from tests.support.packets import ACK, FIN, RST, arp

PEER = bytes.fromhex("02000000ee10")

families = pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def taught() -> Iterator[World]:
    """PEER has both VIPs; so has this host."""
    world = World()
    world.kernel.set_peers(dict.fromkeys([MAC, PEER], VIPS.values()))
    yield world
    world.close()


@pytest.fixture
def knowing(taught: World) -> World:
    taught.forget()
    return taught


def by(mac: bytes, frame: bytes) -> bytes:
    return frame[:6] + mac + frame[12:]


def frames(vip: Address) -> list[bytes]:
    return [
        w.segment(w.SHARED, vip=vip),
        w.segment(w.SHARED, ACK, vip=vip),
        w.segment(w.SHARED, FIN | ACK, vip=vip),
        w.segment(w.SHARED, RST, vip=vip),
        w.segment(w.SHARED, vip=vip, ttl=1),
        w.segment(w.UNIQUE, vip=vip),
        w.segment(w.CLOSED, vip=vip),
        w.segment(w.TO_NO_PATH, vip=vip),
        w.datagram(w.TURNS, vip=vip),
        w.to_vip(6, b"", vip),
        *fragmented(w.UNIQUE, vip),
        too_big(w.UNIQUE, vip=vip),
    ]


@families
def test_goes_up_as_it_is(knowing: World, vip: Address) -> None:
    for mac in (PEER, MAC):
        for frame in frames(vip):
            outcome = knowing.run(by(mac, frame))
            assert (outcome.verdict, outcome.action) == ("distributed", PASSED)
            assert outcome.out == by(mac, frame)
    assert list(knowing.kernel.connections()) == []


@families
def test_of_a_connection_that_is_known_elsewhere(knowing: World, vip: Address) -> None:
    """The other distributor knows better: it is the one that clients send to."""
    assert knowing.run(w.segment(w.UNIQUE, vip=vip)).action == REDIRECTED
    assert knowing.send(by(PEER, w.segment(w.UNIQUE, ACK, vip=vip))) == ["distributed"]


@families
def test_also_while_fenced(knowing: World, vip: Address) -> None:
    """Whichever host announced the VIP: the one that sent it here may not have seen that."""
    fence(knowing)
    expected = ["distributed", "fenced", "drop_fenced"]
    frame = w.segment(w.SHARED, vip=vip)
    assert knowing.send(by(PEER, frame), by(OTHER_MAC, frame), frame) == expected


@families
def test_others_are_clients(knowing: World, vip: Address) -> None:
    for mac in (ROUTER_MAC, bytes.fromhex("02000000ef10"), bytes.fromhex("12000000ee10"), bytes(6)):
        assert knowing.send(by(mac, w.segment(w.UNIQUE, vip=vip))) == ["unique"]


def test_a_peer_may_ask_who_has_the_vip(knowing: World) -> None:
    assert knowing.send(arp(1, PEER, CLIENT, VIP)) == ["arp_replied"]


def test_of_its_own_vips_only(world: World) -> None:
    """A host that is left out of a VIP is a client of it like any other."""
    for vip, index in VIPS.items():
        world.kernel.set_peers({PEER: [index, 15]})
        for other in VIPS:
            expected = "distributed" if other == vip else "unique"
            assert world.send(by(PEER, w.segment(w.UNIQUE, vip=other))) == [expected]


def test_set_anew(world: World) -> None:
    frame = by(PEER, w.segment(w.UNIQUE))
    world.kernel.set_peers({PEER: [0]})
    assert world.send(frame) == ["distributed"]
    world.kernel.set_peers({OTHER_MAC: [0]})
    assert world.send(frame) == ["unique"]
    world.kernel.set_peers({})
    assert world.send(frame) == ["unique"]


def test_macs_of_one_last_byte(world: World) -> None:
    """Four have room; of a fifth, loops end with the TTL."""
    macs = [bytes([2, 0, 0, 0, i, 0x10]) for i in range(5)]
    assert world.kernel.set_peers(dict.fromkeys(macs, (0,))) == 1
    verdicts = world.send(*(by(mac, w.segment(w.UNIQUE)) for mac in macs))
    assert verdicts == ["distributed"] * 4 + ["unique"]


def test_every_host_of_a_large_cluster(world: World) -> None:
    macs = [bytes([2, 0, 0, 0, i // 7, i]) for i in range(64)]
    world.kernel.set_peers(dict.fromkeys(macs, (0,)))
    verdicts = world.send(*(by(mac, w.segment(w.UNIQUE)) for mac in macs))
    assert set(verdicts) == {"distributed"}
