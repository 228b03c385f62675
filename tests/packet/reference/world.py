# SPDX-License-Identifier: Apache-2.0
"""The world of the packet tests with the model in place of the kernel."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.packet.reference.connections import Clock
from tests.packet.reference.decision import Action, Decision
from tests.packet.reference.ip import one_hop_on
from tests.packet.reference.model import Model
from tests.packet.world import DROPPED, PASSED, REDIRECTED, VIPS, Outcome, World

ACTIONS = {
    Action.PASS: PASSED,
    Action.DROP: DROPPED,
    Action.ANSWER: REDIRECTED,
    Action.FORWARD: REDIRECTED,
    Action.ENCAPSULATE: REDIRECTED,
    Action.RELEASE: DROPPED,
}


class ModelWorld(World):
    """`kernel` is the model's tables, whose methods are named as the kernel's.

    In a test run the kernel has no GSO packet, and refuses to encapsulate what says it is one.
    """

    def __init__(self, hash_key: int = 7, clock: Clock = time.monotonic) -> None:
        self.model = Model(hash_key, clock)
        self.kernel = self.model.tables  # type: ignore[assignment]
        self.hook = "model"
        self.decision = self.model.decide(bytes(14))
        """About the last packet, and what it was made into."""
        self.out = b""
        for index in VIPS.values():
            self.kernel.create_routes(index)
        self.furnish()

    def close(self) -> None:
        """There is nothing to close."""

    def run(self, frame: bytes, context: bytes = b"") -> Outcome:
        size = int.from_bytes(context[176:180], "little")
        decision = self.model.decide(frame, size)
        self.out = output(frame, decision)
        if decision.action is Action.ENCAPSULATE and size:
            decision = replace(decision, verdict="drop_encapsulation", action=Action.DROP)
            self.out = one_hop_on(frame)
        self.decision = decision
        action = ACTIONS[decision.action]
        return Outcome(decision.verdict, action, self.out, decision.row, decision.slot)


def output(raw: bytes, decision: Decision) -> bytes:
    """The frame as it leaves; where the next hop's MAC is to be found the kernel knows."""
    match decision.action:
        case Action.FORWARD:
            return one_hop_on(raw)
        case Action.ANSWER | Action.ENCAPSULATE:
            return decision.answer
        case Action.RELEASE:
            return decision.released[-1]
    return raw
