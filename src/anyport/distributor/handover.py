# SPDX-License-Identifier: Apache-2.0
"""Handing a VIP on: the successor publishes first and announces itself then, and until neighbours
have heard that, their packets come here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from anyport.model.definition import Address

FENCED_SECONDS = 2.0
"""From the successor's announcement on: a neighbour that missed it hears the next ones meanwhile.
What it sends here till then is dropped, and sent again; the local stack would refuse it."""
LONGEST_SECONDS = 5.0
"""Without an announcement: the successor's packets then come by another LAN, or never."""

_LOOK_SECONDS = 0.02


async def until(handed_on: Callable[[], bool]) -> None:
    """Looks often: the packet program tells nobody what it hears."""
    while True:
        if handed_on():
            return
        await asyncio.sleep(_LOOK_SECONDS)


@dataclass
class _Deadline:
    at: float
    announced: bool = False


class Handover:
    """VIPs that another host has published, and that this one's kernel forwards until the other
    announces itself (the fence, bpf/decision.h)."""

    def __init__(
        self,
        fenced: Callable[[Address], bool],
        fence: Callable[[Address, bytes], None],
        close: Callable[[Address], None],
        clock: Callable[[], float],
    ) -> None:
        """`fence`: as if the host of that MAC had announced the VIP. `close` ends a VIP here; it
        is told of each but those that were given up."""
        self._fenced = fenced
        self._fence = fence
        self._close = close
        self._clock = clock
        self._pending: dict[Address, _Deadline] = {}
        self._unwatched: set[Address] = set()

    def unwatched(self, vips: Collection[Address]) -> None:
        """The packet program may answer for these while this host is no member: whoever has them
        by the time that it is again may have announced itself unheard."""
        self._unwatched.update(vips)

    def own(self, vip: Address) -> None:
        """This host has it."""
        self._unwatched.discard(vip)
        self.give_up(vip)

    def begin(self, vip: Address, successor: bytes) -> None:
        """`successor`: the MAC of who has published the VIP; empty: it tells none."""
        if vip in self._unwatched and successor:
            self._unwatched.discard(vip)
            self._fence(vip, successor)
        self._pending.setdefault(vip, _Deadline(self._clock() + LONGEST_SECONDS))

    def give_up(self, vip: Address) -> None:
        """Closed already, or there is no successor any more."""
        self._pending.pop(vip, None)

    def tick(self) -> None:
        for vip, deadline in list(self._pending.items()):
            if not deadline.announced and self._fenced(vip):
                self._pending[vip] = _Deadline(self._clock() + FENCED_SECONDS, True)
            elif self._clock() >= deadline.at:
                del self._pending[vip]
                self._close(vip)
