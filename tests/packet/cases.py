# SPDX-License-Identifier: Apache-2.0
"""Rows of the packet tables: one packet in; its verdict, what becomes of it, the bytes out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tests.packet import world as w
from tests.packet.world import DROPPED, PASSED, REDIRECTED, VIP, VIP6, Outcome, World
from tests.support import neighbours
from tests.support.packets import arp, one_hop_on

OTHER_MAC = bytes.fromhex("02000000cc01")


@dataclass(frozen=True)
class Case:
    """`out` None: as it came in."""

    description: str
    frame: bytes
    verdict: str
    action: int
    out: bytes | None = None
    setup: Callable[[World], object] | None = None


def same(description: str, frame: bytes, verdict: str, action: int = PASSED) -> Case:
    return Case(description, frame, verdict, action)


def on(description: str, frame: bytes, verdict: str) -> Case:
    """Forwarded: one hop less, nothing else changed."""
    return Case(description, frame, verdict, REDIRECTED, one_hop_on(frame))


def dropped(description: str, frame: bytes, verdict: str = "drop_malformed") -> Case:
    return Case(description, frame, verdict, DROPPED)


def fence(world: World) -> None:
    """Both VIPs."""
    announcement = neighbours.message(
        neighbours.ADVERTISEMENT, OTHER_MAC, VIP6, neighbours.ALL_NODES, VIP6
    )
    assert world.send(arp(1, OTHER_MAC, VIP, VIP), announcement) == ["fenced", "fenced"]


def check(shared: World, case: Case) -> None:
    """In a world of its own if the case changes it."""
    if case.setup is None:
        shared.forget()
        judge(shared, case)
        return
    with closing(World(hook=shared.hook)) as world:
        case.setup(world)
        judge(world, case)


def judge(world: World, case: Case) -> Outcome:
    outcome = world.run(case.frame)
    assert (outcome.verdict, outcome.action) == (case.verdict, case.action)
    assert (outcome.row is None) == (case.verdict in ("not_ours", "mtu_learnt"))
    if case.action == REDIRECTED and not case.verdict.endswith("_replied"):
        assert outcome.slot in (w.A, w.B, w.TUNNEL, w.CROSSED)
    assert outcome.out.hex() == (case.frame if case.out is None else case.out).hex()
    return outcome
