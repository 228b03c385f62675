# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from anyport.distributor.absent import AbsentHosts
from anyport.distributor.unheard import DOUBT_SECONDS, Unheard
from anyport.model import Cluster, Definition, Host

VIP = ip_address("10.0.0.100")
ANY = Definition(VIP)
SECONDS = 600.0


@dataclass
class World:
    """Members, and those that were."""

    directory: Path
    now: float = 0.0
    hosts: dict[str, Host] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.absent = AbsentHosts("me", self.directory / "hosts.json", SECONDS, self.clock)
        self.unheard = Unheard(self.cluster, self.absent, SECONDS, self.clock)

    def clock(self) -> float:
        return self.now

    def cluster(self) -> Cluster:
        return Cluster(9, {}, self.hosts, {}, {}, {}, {})

    def members(self, *names: str) -> None:
        self.hosts = {name: KNOWN[name] for name in names}
        self.absent.follow(self.hosts)

    def stand_in(self, definition: Definition = ANY) -> str | None:
        return self.unheard.stand_in(VIP, definition)


KNOWN: Mapping[str, Host] = {
    name: Host(name, ip_address(f"10.0.0.{last}"))
    for last, name in enumerate(("me", "old", "other", "third"), 1)
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.members("me", "old", "other")
    return world


def test_the_former_distributor_stands_in_until_it_was_heard(world: World) -> None:
    world.members("me", "other")
    world.unheard.begin(VIP)
    world.unheard.heard(VIP, ())
    assert (world.stand_in(), world.unheard.left(VIP)) == ("old", 0.0)
    world.now = 100.0
    world.members("me", "other", "old")
    assert (world.stand_in(), world.unheard.left(VIP)) == ("old", SECONDS - 100.0)
    world.unheard.heard(VIP, ())
    assert (world.stand_in(), world.unheard.left(VIP)) == (None, 0.0)


def test_where_all_are_there_nobody_stands_in(world: World) -> None:
    world.unheard.begin(VIP)
    assert (world.stand_in(), world.unheard.in_doubt(VIP, ANY)) == (None, 0.0)
    world.unheard.heard(VIP, ())
    assert (world.stand_in(), world.unheard.left(VIP)) == (None, 0.0)


def test_a_member_that_is_mute_stands_in_and_is_asked_on(world: World) -> None:
    world.unheard.begin(VIP)
    world.unheard.heard(VIP, ["other"])
    assert (world.stand_in(), world.unheard.left(VIP)) == ("other", SECONDS)


def test_who_goes_before_it_was_heard_stands_in(world: World) -> None:
    world.unheard.begin(VIP)
    world.members("me", "old")
    world.unheard.heard(VIP, ())
    assert world.stand_in() == "other"


def test_who_goes_after_it_was_heard_does_not(world: World) -> None:
    world.unheard.begin(VIP)
    world.unheard.heard(VIP, ())
    world.members("me", "old")
    assert world.stand_in() is None


def test_of_several_none_is_guessed_at_first(world: World) -> None:
    world.members("me")
    world.unheard.begin(VIP)
    world.now = 4.0
    assert world.unheard.in_doubt(VIP, ANY) == DOUBT_SECONDS - 4.0
    world.now = DOUBT_SECONDS
    assert world.unheard.in_doubt(VIP, ANY) == 0.0


def test_there_is_no_doubt_where_one_is_back_or_left_out(world: World) -> None:
    world.members("me")
    world.unheard.begin(VIP)
    assert world.unheard.in_doubt(VIP, Definition(VIP, hosts=frozenset({"me", "old"}))) == 0.0
    world.members("me", "old")
    world.unheard.heard(VIP, ())
    assert world.unheard.in_doubt(VIP, ANY) == 0.0


def test_whom_the_definition_leaves_out_does_not_stand_in(world: World) -> None:
    world.members("me", "other")
    world.unheard.begin(VIP)
    world.unheard.heard(VIP, ())
    assert world.stand_in(Definition(VIP, hosts=frozenset({"me", "other"}))) is None
    assert world.stand_in() == "old"


def test_it_ends(world: World) -> None:
    world.unheard.begin(VIP)
    world.unheard.heard(VIP, ["other"])
    world.now = SECONDS
    assert (world.stand_in(), world.unheard.left(VIP)) == (None, 0.0)


def test_a_restart_goes_on_with_who_stands_in(world: World) -> None:
    world.members("me", "other")
    world.unheard.resume(VIP, "old")
    assert (world.stand_in(), world.unheard.in_doubt(VIP, ANY)) == ("old", 0.0)
    world.members("me", "other", "old")
    assert world.unheard.left(VIP) == SECONDS
    world.unheard.heard(VIP, ())
    assert world.stand_in() is None
