# SPDX-License-Identifier: Apache-2.0
"""Mutated frames through the program and the model, until the two differ."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from random import Random

from anyport.decide.rows import Hop, HostRow, Path
from anyport.errors import KernelError
from anyport.model.definition import Address
from tests.fuzz import corpus
from tests.fuzz.mutate import Mutator
from tests.packet.frames import PEER
from tests.packet.reference.decision import Action
from tests.packet.steps import MTUS, SLOTS
from tests.packet.twin import StalledError, Twin
from tests.packet.world import GSO, OWN, OWN6, VIPS, World, mac_of

RUN = 400
"""Packets before everything begins anew: fewer than would displace a connection or a fragment."""


UNFENCED = 8
"""Shots after which no VIP is fenced: mutated announcements are many."""


@dataclass(frozen=True)
class Shot:
    frame: bytes
    gso: bool = False

    def __str__(self) -> str:
        return self.frame.hex() + "+gso" * self.gso

    @property
    def context(self) -> bytes:
        return GSO if self.gso else b""


def parse_shot(text: str) -> Shot:
    return Shot(bytes.fromhex(text.removesuffix("+gso")), text.endswith("+gso"))


@dataclass(frozen=True)
class Finding:
    world: str
    shots: Sequence[Shot]
    difference: str

    def __str__(self) -> str:
        replay = " ".join(map(str, self.shots))
        return f"{self.difference}\nagain: python -m tests.fuzz --world {self.world} {replay}"


def hunt(twin: Twin, seed: int, count: int) -> Iterator[Finding | None]:
    """After each run what it found, shrunk. The same seed is the same hunt."""
    frames = corpus.frames()
    for number in range(-(-count // RUN)):
        world = f"{'xdp' if number % 2 else 'tc'}-{seed}-{number}"
        random = Random(f"shots {world}")
        mutator = Mutator(random, frames)
        shots = [Shot(mutator.frame(), random.random() < 0.05) for _ in range(RUN)]
        difference = run(twin, world, shots)
        yield shrunk(twin, Finding(world, shots, difference)) if difference else None


def run(twin: Twin, world: str, shots: Sequence[Shot]) -> str:
    """Wherein program and model differ after them; empty if in nothing.

    The counters are asked once, at the end, as that takes longer than a packet.
    """
    arrange(twin, world)
    try:
        _fire_all(twin, shots)
        twin.compare_counters()
        twin.compare_tables()
    except StalledError:
        return run(twin, world, shots)
    except (AssertionError, KernelError) as difference:
        return str(difference)
    return ""


def _fire_all(twin: Twin, shots: Sequence[Shot]) -> None:
    waiting = deque(shots)
    for number in itertools.count():
        if not waiting:
            return
        if number % UNFENCED == 0:
            twin.change(_unfence)
        shot = waiting.popleft()
        twin.fire(shot.frame, shot.context)
        check_bounds(shot.frame, twin.model.decision.action, twin.model.out)
        waiting.extendleft(Shot(f, shot.gso) for f in reversed(twin.model.decision.released))


def check_bounds(frame: bytes, action: Action, out: bytes) -> None:
    """Whatever the model decides, these two cannot be wrong with: R9, and what is not ours."""
    if action is Action.PASS:
        assert out == frame
    if action is Action.ENCAPSULATE:
        check_bounds(frame, Action.FORWARD, frame[:14] + out[14 + len(out) - len(frame) :])
    if action is Action.FORWARD:
        changed = {i for i, (a, b) in enumerate(zip(frame, out, strict=True)) if a != b}
        assert changed <= ({21} if frame[12:14] == b"\x86\xdd" else {22, 24, 25}), changed


def shrunk(twin: Twin, finding: Finding) -> Finding:
    """As few frames as can be left out one after another, the halves first."""
    shots, size = list(finding.shots), len(finding.shots) // 2
    difference = finding.difference
    while size:
        for start in range(len(shots) - size, -1, -size):
            fewer = shots[:start] + shots[start + size :]
            found = fewer and run(twin, finding.world, fewer)
            if found:
                shots, difference = fewer, found
        size //= 2
    return Finding(finding.world, shots, difference)


# ---- a world for each run ----


def arrange(twin: Twin, world: str) -> None:
    """That of the packet tests, with hosts and selections that `world` draws: hook and seed."""
    random = Random(f"world {world}")
    twin.program.hook = world.partition("-")[0]
    twin.reset()
    for slot in SLOTS:
        twin.change(_host(slot, _drawn_host(random, slot)))
    for index in range(4):
        size = random.choices([0, 1, 2, 3, 7, 100], [1, 4, 4, 4, 4, 4])[0]
        table = random.choices(SLOTS, k=size)
        twin.change(_selection(index, random.randrange(2), table))
    known = {PEER: random.sample(list(VIPS.values()), random.randrange(3))}
    twin.change(lambda world: world.kernel.set_peers(known))
    for vip in VIPS:
        twin.change(_absent(vip, random.choice([None, random.choice(SLOTS)])))
    twin.count()


def _unfence(world: World) -> None:
    for index in VIPS.values():
        world.kernel.unfence(index)


def _absent(vip: Address, slot: int | None) -> Callable[[World], None]:
    return lambda world: world.kernel.set_absent(vip, slot)


def _host(slot: int, row: HostRow) -> Callable[[World], None]:
    return lambda world: world.kernel.set_host(slot, row)


def _selection(index: int, method: int, table: list[int]) -> Callable[[World], None]:
    return lambda world: world.kernel.set_selection(index, method, table)


def _drawn_host(random: Random, slot: int) -> HostRow:
    addresses: list[Address] = [IPv4Address("10.0.0.7"), IPv6Address("fd00::7")]
    sources: list[Address] = [OWN, OWN6]
    paths = random.choices([Path.LOCAL, Path.L2, Path.NONE, Path.IPIP], [4, 8, 1, 4], k=2)
    ipv4, ipv6 = (
        Hop(
            random.choice(addresses),
            path,
            random.choice([1, 1, 1, 2]),
            random.choice(sources),
            random.choice(MTUS),
        )
        for path in paths
    )
    mac = random.choice([mac_of(slot), mac_of(slot), b""])
    weight = random.choice([0, 1, 100, 1000])
    return HostRow(ipv4, ipv6, weight, mac)
