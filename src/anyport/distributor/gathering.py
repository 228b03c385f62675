# SPDX-License-Identifier: Apache-2.0
"""What a new distributor does not know: the connections that hosts have (docs/adr/0018)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from anyport.decide.gathering import missing
from anyport.kernel.connections import Entered
from anyport.model import Cluster, Definition
from anyport.model.definition import Address

log = logging.getLogger(__name__)

LONGEST_SECONDS = 2.0
"""For hosts to answer while unknown connections wait. Who has not by then is cut off, or its
daemon is away or busy: what nobody has said is its own is taken to be its."""

GRACE_SECONDS = 0.5
"""More than that the kernel lets them wait, which ends it by itself should nobody else."""


@dataclass
class _Gathering:
    """Of one VIP. `entered`: host and number of the pieces that were."""

    term: int
    seconds: float
    began: float
    deadline: asyncio.TimerHandle
    entered: set[tuple[str, int]] = field(default_factory=set)
    others: Counter[str] = field(default_factory=Counter)
    no_room: Counter[str] = field(default_factory=Counter)

    def is_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self.began + self.seconds


class Gatherings:
    """The VIPs whose connections are being asked for: unknown ones wait in the kernel meanwhile."""

    def __init__(
        self,
        cluster: Callable[[], Cluster],
        enter: Callable[[Address, str, bytes], Entered],
        said: Callable[[Address, Collection[str]], None],
        done: Callable[[Address, Collection[str]], None],
        wake: Callable[[Address], None],
    ) -> None:
        """`enter` gets a host's rows. `said` is told whose connections are not known yet, of the
        members, and `done` whose are not when no more are waited for. `wake`: time is over, and
        the VIP wants to be followed."""
        self._cluster = cluster
        self._enter_rows = enter
        self._said = said
        self._done = done
        self._wake = wake
        self._pending: dict[Address, _Gathering] = {}

    def begin(self, vip: Address, term: int, seconds: float) -> None:
        """It has just been asked for; hosts have `seconds` to answer."""
        self.end(vip)
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(seconds, self._wake, vip)
        self._pending[vip] = _Gathering(term, seconds, loop.time(), deadline)

    def follow(self, vip: Address, definition: Definition) -> None:
        """Pieces came, or hosts did or went, or the definition is another."""
        gathering = self._pending.get(vip)
        if gathering is None:
            return
        self._enter(vip, gathering, definition)
        left = missing(vip, gathering.term, definition, self._cluster())
        self._said(vip, left)
        if left and not gathering.is_over():
            return
        if left:
            _name(vip, gathering, left)
        self._finish(vip, gathering, left)

    def is_pending(self, vip: Address) -> bool:
        return vip in self._pending

    def end(self, vip: Address) -> None:
        """The tenure ended first, or nothing was asked for."""
        gathering = self._pending.pop(vip, None)
        if gathering is not None:
            gathering.deadline.cancel()

    def _enter(self, vip: Address, gathering: _Gathering, definition: Definition) -> None:
        for host in sorted(self._cluster().hosts):
            said = self._cluster().connections.get((vip, host), {})
            for number, piece in sorted(said.items()):
                due = piece.term == gathering.term and (host, number) not in gathering.entered
                if due and definition.allows(host):
                    gathering.entered.add((host, number))
                    entered = self._enter_rows(vip, host, piece.rows)
                    gathering.others[host] += entered.others
                    gathering.no_room[host] += entered.no_room

    def _finish(self, vip: Address, gathering: _Gathering, mute: Collection[str]) -> None:
        self.end(vip)
        _tell(vip, gathering)
        self._done(vip, mute)


def _name(vip: Address, gathering: _Gathering, mute: Collection[str]) -> None:
    log.warning(
        "vip %s: not said within %.0f s which connections they have: %s",
        vip,
        gathering.seconds,
        ", ".join(sorted(mute)),
    )


def _tell(vip: Address, gathering: _Gathering) -> None:
    took = asyncio.get_running_loop().time() - gathering.began
    hosts = len({host for host, _ in gathering.entered})
    log.info("vip %s: connections of %d hosts known after %.3f s", vip, hosts, took)
    for host, count in (+gathering.others).items():
        log.warning("vip %s: %d connections that %s says are its own are others'", vip, count, host)
    for host, count in (+gathering.no_room).items():
        log.warning("vip %s: no room for %d connections of %s", vip, count, host)
