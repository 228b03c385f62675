# SPDX-License-Identifier: Apache-2.0
"""What the model says about a packet."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Action(enum.Enum):
    PASS = "to the local stack"
    DROP = "nowhere"
    ANSWER = "the answer, back to where the packet came from"
    FORWARD = "to the host of the slot"
    ENCAPSULATE = "to it in an outer packet"
    RELEASE = "back into the queue, and those that waited for it behind it"


@dataclass(frozen=True)
class Decision:
    verdict: str
    """As the counters name it (enum verdict of bpf/abi.h, in lower case)."""
    action: Action
    slot: int | None = None
    """Whose packet it is, if it is a host's: also if that one is here, or it gets nowhere."""
    row: int | None = None
    """Of the VIP that it is for."""
    chosen: str = ""
    """For another host: the verdict, before it was asked whether it fits the way there."""
    answer: bytes = b""
    """ANSWER, ENCAPSULATE: the frame that leaves."""
    released: tuple[bytes, ...] = ()
    """RELEASE: the frames that take their turn again."""


class Settled(Exception):
    """Nothing more is to be asked about this packet."""

    def __init__(self, verdict: str, action: Action, slot: int | None, row: int | None) -> None:
        super().__init__(verdict)
        self.decision = Decision(verdict, action, slot, row)


def dropped(verdict: str, slot: int | None = None, row: int | None = None) -> Settled:
    return Settled(verdict, Action.DROP, slot, row)


def passed(verdict: str, slot: int | None = None, row: int | None = None) -> Settled:
    return Settled(verdict, Action.PASS, slot, row)
