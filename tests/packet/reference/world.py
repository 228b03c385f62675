# SPDX-License-Identifier: Apache-2.0
"""The world of the packet tests with the model in place of the kernel."""

from __future__ import annotations

import time

from tests.packet.reference.connections import Clock
from tests.packet.reference.decision import Action
from tests.packet.reference.model import Model, output
from tests.packet.world import DROPPED, GSO, PASSED, REDIRECTED, VIPS, Outcome, World

ACTIONS = {
    Action.PASS: PASSED,
    Action.DROP: DROPPED,
    Action.ANSWER: REDIRECTED,
    Action.FORWARD: REDIRECTED,
    Action.RELEASE: DROPPED,
}


class ModelWorld(World):
    """`kernel` is the model's tables, whose methods are named as the kernel's.

    By which VIP a packet is counted is no matter of the model: no outcome has a row.
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
        decision = self.decision = self.model.decide(frame, context == GSO)
        self.out = output(frame, decision)
        action = ACTIONS[decision.action]
        return Outcome(decision.verdict, action, self.out, None, decision.slot)
