# SPDX-License-Identifier: Apache-2.0
"""Which entries of the connection table are live, as far as the client's packets tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from anyport.kernel.abi import ConnectionState
from anyport.kernel.connections import ConnectionRow, now_ns
from anyport.model import Definition, Protocol
from anyport.model.definition import Address

# How long a silent connection counts as live: of a SYN nobody answered, and after a FIN or RST.
NEW_SECONDS = 60.0
CLOSING_SECONDS = 5.0
_LONGEST = {
    ConnectionState.NEW: NEW_SECONDS,
    ConnectionState.CLOSING: CLOSING_SECONDS,
    ConnectionState.RESET: CLOSING_SECONDS,
}


def live(
    connections: Iterator[ConnectionRow], definition: Callable[[Address], Definition | None]
) -> Iterator[ConnectionRow]:
    """`definition`: of a VIP that is distributed here."""
    now = now_ns()
    return (c for c in connections if _is_live(c, (now - c.seen_ns) / 1e9, definition(c.vip)))


def _is_live(connection: ConnectionRow, idle_seconds: float, definition: Definition | None) -> bool:
    if connection.protocol is Protocol.UDP:
        return definition is not None and idle_seconds < definition.udp_idle
    return idle_seconds < _LONGEST.get(connection.state, math.inf)
