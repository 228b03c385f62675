# SPDX-License-Identifier: Apache-2.0
"""The connections: a dictionary that has room for all. Who gives way in a full table is no
matter of the model (test_connection_table has it)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from anyport.decide.rows import RouteKind, RouteRow
from anyport.kernel.abi import ConnectionState
from anyport.model import Protocol
from tests.packet.reference.transport import Flow, Sent

Clock = Callable[[], float]
"""Seconds."""
LIVELY = 60.0
"""Within it a SYN does not move an established connection (RFC 5961 4: it is challenged)."""

DISBELIEVED = 2.0
"""What comes so long after an RST shows that it was a forged one (RFC 5961 3)."""

NEW, ESTABLISHED, CLOSING, RESET = ConnectionState


@dataclass
class Connection:
    slot: int
    state: ConnectionState
    seen: float


class Connections:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.known: dict[tuple[int, Flow], Connection] = {}
        """By the VIP's row and the flow."""

    def slot(self, row: int, flow: Flow) -> int | None:
        """No sign of life."""
        known = self.known.get((row, flow))
        return known.slot if known else None

    def follow(self, row: int, sent: Sent, route: RouteRow, udp_idle: float) -> int | None:
        """R6: the slot to which the packet follows its connection; None: it is to be chosen."""
        known = self.known.get((row, sent.flow))
        if known is None or not self._stays(known, sent, route, udp_idle):
            return None
        known.state = after(known.state, sent, self._clock() - known.seen)
        known.seen = self._clock()
        return known.slot

    def remember(self, row: int, flow: Flow, slot: int) -> None:
        self.known[row, flow] = Connection(slot, NEW, self._clock())

    def enter(self, row: int, flow: Flow, slot: int) -> None:
        """A host says it has the connection; who is known already stays. It is as one silent for
        so long that a SYN may move it, if the host is no target of the port."""
        established = Connection(slot, ESTABLISHED, self._clock() - LIVELY - 1)
        self.known.setdefault((row, flow), established)

    def forget_slots(self, slots: Collection[int]) -> int:
        before = len(self.known)
        self.known = {k: c for k, c in self.known.items() if c.slot not in slots}
        return before - len(self.known)

    def forget_row(self, row: int) -> None:
        self.known = {k: c for k, c in self.known.items() if k[0] != row}

    def age(self, seconds: float) -> None:
        """As if the last packet of each had come so much earlier."""
        for connection in self.known.values():
            connection.seen -= seconds

    def _stays(self, known: Connection, sent: Sent, route: RouteRow, udp_idle: float) -> bool:
        """bpf/README.md, 6."""
        silent = self._clock() - known.seen
        if not sent.opens:
            return True
        is_target = bool(route.hosts >> known.slot & 1)
        if sent.flow.protocol is Protocol.UDP:
            return silent < udp_idle and (is_target or route.kind == RouteKind.NONE)
        if known.state is ESTABLISHED and silent < LIVELY:
            return True
        return is_target and route.kind != RouteKind.NONE


def after(state: ConnectionState, sent: Sent, silent: float) -> ConnectionState:
    """What the client has shown by the packet; a SYN again, in TIME_WAIT, begins anew."""
    if sent.resets:
        return RESET
    if sent.is_syn:
        return NEW if state in (CLOSING, RESET) else state
    if sent.closes:
        return state if state is RESET and silent < DISBELIEVED else CLOSING
    if state is RESET and silent >= DISBELIEVED:
        return ESTABLISHED
    return ESTABLISHED if state is NEW else state
