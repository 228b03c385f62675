# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from ipaddress import ip_address

import pytest

from anyport.distributor.gathering import Gatherings
from anyport.kernel.connections import Entered
from anyport.model import Cluster, ConnectionsPiece, Definition, Host
from anyport.model.definition import Address

VIP = ip_address("10.0.0.100")
TERM = 7


class World:
    """`entered` as (host, rows), `done` as VIPs."""

    def __init__(self) -> None:
        self.hosts = {name: Host(name, ip_address("10.0.0.1")) for name in ("a", "b")}
        self.said: dict[tuple[Address, str], dict[int, ConnectionsPiece]] = {}
        self.definition = Definition(VIP)
        self.entered: list[tuple[str, bytes]] = []
        self.done: list[Address] = []
        self.mute: list[str] = []
        self.left: list[set[str]] = []
        self.answer = Entered(0, 0)
        self.gatherings = Gatherings(
            self.cluster, self.enter, self.hear, self.known, lambda vip: self.follow()
        )

    def cluster(self) -> Cluster:
        return Cluster(9, {}, self.hosts, {}, {}, {}, {}, connections=self.said)

    def enter(self, vip: Address, host: str, rows: bytes) -> Entered:
        assert vip == VIP
        self.entered.append((host, rows))
        return self.answer

    def hear(self, vip: Address, left: Collection[str]) -> None:
        self.left.append(set(left))

    def known(self, vip: Address, mute: Collection[str]) -> None:
        self.done.append(vip)
        self.mute += mute

    def say(self, host: str, number: int, pieces: int, rows: bytes, term: int = TERM) -> None:
        self.said.setdefault((VIP, host), {})[number] = ConnectionsPiece(host, term, pieces, rows)
        self.follow()

    def follow(self) -> None:
        self.gatherings.follow(VIP, self.definition)


def in_world(scenario: Callable[[World], Awaitable[None]], seconds: float = 600.0) -> None:
    async def run() -> None:
        world = World()
        world.gatherings.begin(VIP, TERM, seconds)
        await scenario(world)
        world.gatherings.end(VIP)

    asyncio.run(run())


def test_pieces_are_entered_as_they_come_and_once() -> None:
    async def scenario(world: World) -> None:
        world.say("a", 1, 2, b"second")
        world.say("b", 0, 1, b"all")
        world.say("b", 0, 1, b"all")
        assert world.done == []
        world.say("a", 0, 2, b"first")
        assert world.entered == [("a", b"second"), ("b", b"all"), ("a", b"first")]
        assert world.done == [VIP]
        world.say("a", 0, 1, b"again")
        assert len(world.entered) == 3
        assert world.left == [{"a", "b"}, {"a"}, {"a"}, set()]

    in_world(scenario)


def test_of_another_term_nothing_is_entered() -> None:
    async def scenario(world: World) -> None:
        world.say("a", 0, 1, b"old", term=TERM - 1)
        world.say("b", 0, 1, b"new", term=TERM + 1)
        assert (world.entered, world.done) == ([], [])

    in_world(scenario)


def test_of_a_host_that_is_left_out_or_no_member_nothing_is_entered() -> None:
    async def scenario(world: World) -> None:
        world.definition = Definition(VIP, hosts=frozenset({"a"}))
        world.say("b", 0, 1, b"left out")
        world.say("stranger", 0, 1, b"no member")
        assert world.entered == []
        world.say("a", 0, 1, b"")
        assert world.done == [VIP]

    in_world(scenario)


def test_a_host_that_goes_is_waited_for_no_more() -> None:
    async def scenario(world: World) -> None:
        world.say("a", 0, 1, b"")
        del world.hosts["b"]
        world.follow()
        assert world.done == [VIP]

    in_world(scenario)


def test_what_nobody_has_looked_at_is_entered_at_the_deadline() -> None:
    """The loop takes other VIPs meanwhile."""

    async def scenario(world: World) -> None:
        world.said[VIP, "a"] = {0: ConnectionsPiece("a", TERM, 1, b"all")}
        for _ in range(3):  # the timer is due at once
            await asyncio.sleep(0)
        assert (world.done, world.mute) == ([VIP], ["b"])
        assert world.entered == [("a", b"all")]

    in_world(scenario, seconds=0.0)


def test_an_ended_tenure_enters_nothing() -> None:
    async def scenario(world: World) -> None:
        world.gatherings.end(VIP)
        world.say("a", 0, 1, b"late")
        world.say("b", 0, 1, b"late")
        assert (world.entered, world.done) == ([], [])

    in_world(scenario)


def test_who_says_others_connections_are_its_own_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(world: World) -> None:
        world.say("a", 0, 1, b"its own")
        world.answer = Entered(others=3, no_room=2)
        world.say("b", 0, 1, b"others'")

    with caplog.at_level(logging.WARNING):
        in_world(scenario)
    assert [record.getMessage() for record in caplog.records] == [
        f"vip {VIP}: 3 connections that b says are its own are others'",
        f"vip {VIP}: no room for 2 connections of b",
    ]
