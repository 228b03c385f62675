# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from anyport.model import Heartbeat
from anyport.registry.heartbeats import SILENT_TTLS, Heartbeats

TTL = 4
HOSTS = ("reader", "b", "c")


def beats(*hosts: str, ttl: int = TTL) -> dict[str, Heartbeat | None]:
    return {host: Heartbeat(host, ttl) for host in hosts}


def heard(*hosts: str) -> Heartbeats:
    found = Heartbeats("reader")
    found.hear(beats(*hosts))
    return found


def test_a_host_that_stands_still_is_silent() -> None:
    found = heard(*HOSTS)
    for _ in range(SILENT_TTLS - 1):
        found.hear(beats("reader", "c"))
    assert not found.silent
    found.hear(beats("reader", "c"))
    assert found.silent == {"b"}
    found.hear(beats("b"))
    assert not found.silent


def test_nobody_is_silent_while_the_reader_is() -> None:
    """Cut off, frozen, or without a registry that takes writes."""
    found = heard(*HOSTS)
    for _ in range(10 * SILENT_TTLS):
        found.hear(beats("c"))
    assert not found.silent


def test_what_came_at_once_counts_once() -> None:
    """A reader that was frozen reads all it missed, or lists again."""
    found = heard(*HOSTS)
    for _ in range(SILENT_TTLS - 1):
        found.hear(beats("reader"))
    found.hear(beats("reader", "b"))
    assert found.silent == {"c"}


def test_a_host_of_a_much_shorter_ttl_is_not_silent() -> None:
    """The TTL is changed on one host after the other: it has its own beats between two of ours."""
    found = heard("b")
    for _ in range(10 * SILENT_TTLS):
        found.hear({"reader": Heartbeat("reader", 10 * TTL)})
        assert not found.silent
        found.hear(beats("b"))


def test_a_host_s_own_ttl_is_what_it_is_measured_by() -> None:
    found = heard("reader")
    found.hear({"b": Heartbeat("b", 10 * TTL)})
    for _ in range(10 * SILENT_TTLS - 1):
        found.hear(beats("reader"))
    assert not found.silent
    found.hear(beats("reader"))
    assert found.silent == {"b"}


def test_a_key_that_went_with_its_lease_is_nobody_s() -> None:
    found = heard(*HOSTS)
    found.hear({"b": None})
    for _ in range(10 * SILENT_TTLS):
        found.hear(beats("reader"))
    assert found.silent == {"c"}


@dataclass
class World:
    """Hosts that write heartbeats every TTL, as long as they can: time goes in steps of one."""

    found: Heartbeats = field(default_factory=lambda: heard(*HOSTS))
    now: int = 0
    due: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HOSTS, TTL))
    """Of the hosts that live."""
    taken: int = 0
    """Steps in which the store took writes and the reader lived, since the death of c."""
    dead: bool = False

    def step(self, running: bool, frozen: frozenset[str], order: list[str], late: int) -> None:
        """`running`: the store. `frozen`: hosts that do nothing now; each comes back within a TTL
        or loses its lease, which the registry sees to. `late`: steps a write may take."""
        self.now += 1
        if not running:
            return
        if self.dead and "reader" not in frozen:
            self.taken += 1
        for host in order:
            if host in self.due and self.due[host] <= self.now and host not in frozen:
                self.found.hear(beats(host))
                self.due[host] = self.now + TTL + late


steps = st.lists(
    st.tuples(
        st.integers(0, 30),  # steps that the store stands still, first
        st.frozensets(st.sampled_from(["reader"])),
        st.permutations(HOSTS),
        st.integers(0, 1),
    ),
    max_size=120,
)


@settings(max_examples=2000, deadline=None)
@given(before=steps, after=steps)
def test_the_living_never_and_the_dead_in_time(before: list, after: list) -> None:  # type: ignore[type-arg]
    world = World()

    def go(through: list) -> None:  # type: ignore[type-arg]
        for still, frozen, order, late in through:
            for _ in range(still):
                world.step(False, frozen, order, late)
            world.step(True, frozen, order, late)
            assert world.found.silent <= ({"c"} if world.dead else set())

    go(before)
    world.dead = True
    del world.due["c"]
    go(after)
    # One more for each write that was late, and the TTL that was under way.
    if world.taken >= (SILENT_TTLS + 1) * (TTL + 1) and not any(f for _, f, _, _ in after):
        assert world.found.silent == {"c"}
