# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import ip_address

from anyport.distributor.handover import FENCED_SECONDS, LONGEST_SECONDS, Handover
from anyport.model.definition import Address

VIP = ip_address("192.0.2.10")
MAC = bytes.fromhex("02000000aa01")


class World:
    """A clock, who has announced itself, and what was closed."""

    def __init__(self) -> None:
        self.now = 100.0
        self.announced: set[Address] = set()
        self.closed: list[Address] = []
        self.fenced: list[tuple[Address, bytes]] = []
        self.handover = Handover(
            lambda vip: vip in self.announced,
            lambda vip, mac: self.fenced.append((vip, mac)),
            self.closed.append,
            lambda: self.now,
        )

    def after(self, seconds: float) -> list[Address]:
        self.now += seconds
        self.handover.tick()
        return self.closed


def test_packets_go_on_until_a_while_after_the_announcement() -> None:
    """Who missed it hears the next one; what it sends here meanwhile is not refused."""
    world = World()
    world.handover.begin(VIP, MAC)
    assert world.after(1.0) == []
    world.announced.add(VIP)
    assert world.after(0.0) == []
    assert world.after(FENCED_SECONDS / 2) == []
    assert world.after(FENCED_SECONDS / 2) == [VIP]
    assert world.after(LONGEST_SECONDS) == [VIP]


def test_an_announcement_at_the_last_moment_counts() -> None:
    world = World()
    world.handover.begin(VIP, MAC)
    world.announced.add(VIP)
    assert world.after(LONGEST_SECONDS) == []
    assert world.after(FENCED_SECONDS) == [VIP]


def test_without_an_announcement_they_end_all_the_same() -> None:
    world = World()
    world.handover.begin(VIP, MAC)
    assert world.after(LONGEST_SECONDS / 2) == []
    world.handover.begin(VIP, MAC)  # at every election; it begins once
    assert world.after(LONGEST_SECONDS / 2) == [VIP]


def test_what_is_given_up_goes_on() -> None:
    """The successor died before it announced itself."""
    world = World()
    world.handover.begin(VIP, MAC)
    world.handover.give_up(VIP)
    assert world.after(LONGEST_SECONDS) == []


def test_who_hands_on_waits_for_the_announcement() -> None:
    world = World()
    world.handover.unwatched([VIP])
    world.handover.own(VIP)
    world.handover.begin(VIP, MAC)
    assert world.fenced == []


def test_who_returns_has_missed_it() -> None:
    """Its packet program answered for the VIP all the while."""
    world = World()
    world.handover.unwatched([VIP])
    world.handover.give_up(VIP)  # nobody has published yet
    world.handover.begin(VIP, b"")  # nor told a MAC
    assert world.fenced == []
    world.handover.begin(VIP, MAC)
    world.handover.begin(VIP, MAC)
    assert world.fenced == [(VIP, MAC)]
