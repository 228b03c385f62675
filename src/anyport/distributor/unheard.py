# SPDX-License-Identifier: Apache-2.0
"""Hosts that have not said which connections they have, since this host took a VIP."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from math import inf

from anyport.decide.absent import stand_in
from anyport.decide.gathering import asked
from anyport.distributor.absent import AbsentHosts
from anyport.model import Cluster, Definition
from anyport.model.definition import Address

DOUBT_SECONDS = 10.0
"""For hosts to return, if more than one may have what nobody knows: to guess would cut connections
that their senders would keep up for so long."""


@dataclass
class _Tenure:
    """`asked`: who may be among `unheard` yet. `doubt_until`: see DOUBT_SECONDS."""

    until: float
    doubt_until: float
    unheard: set[str]
    asked: set[str] = field(default_factory=set)
    stand_in: str | None = None


class Unheard:
    """What nobody says is its own may be theirs (docs/adr/0018)."""

    def __init__(
        self,
        cluster: Callable[[], Cluster],
        hosts: AbsentHosts,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """`seconds`: for so long after a takeover."""
        self._cluster = cluster
        self._hosts = hosts
        self._seconds = seconds
        self._clock = clock
        self._tenures: dict[Address, _Tenure] = {}

    def begin(self, vip: Address) -> None:
        """All members are asked; who is absent should be."""
        now = self._clock()
        members = set(self._cluster().hosts)
        self._tenures[vip] = _Tenure(
            now + self._seconds, now + DOUBT_SECONDS, set(self._hosts.absent), members
        )

    def resume(self, vip: Address, host: str | None) -> None:
        """As a former daemon of this host has left it: `host` stands in."""
        until = self._clock() + self._seconds
        self._tenures[vip] = _Tenure(until, -inf, {host} if host else set(), stand_in=host)

    def end(self, vip: Address) -> None:
        self._tenures.pop(vip, None)

    def said(self, vip: Address, missing: Collection[str]) -> None:
        """All members but these have said what they have, so far."""
        self._tenures[vip].unheard &= {*self._hosts.absent, *missing}

    def heard(self, vip: Address, mute: Collection[str]) -> None:
        """All members but these have said what they have."""
        tenure = self._tenures[vip]
        tenure.unheard = (tenure.unheard | tenure.asked) & {*self._hosts.absent, *mute}
        tenure.asked.clear()  # what they have from now on is known here

    def in_doubt(self, vip: Address, definition: Definition) -> float:
        """For how many seconds segments of connections that nobody knows had better wait."""
        tenure = self._tenures[vip]
        now, absent = self._clock(), self._hosts.absent
        soon = [h for h in absent if now - absent[h].since < DOUBT_SECONDS]  # may be back
        several = len(self._able(tenure, definition) & {*soon}) > 1
        return max(0.0, tenure.doubt_until - now) if several else 0.0

    def left(self, vip: Address) -> float:
        """For how many seconds hosts that are there may be asked again; 0: there are none."""
        tenure = self._tenures[vip]
        there = tenure.unheard & self._cluster().hosts.keys()
        return max(0.0, tenure.until - self._clock()) if there else 0.0

    def stand_in(self, vip: Address, definition: Definition) -> str | None:
        """Who gets the segments of connections that nobody knows; None: the hash decides."""
        tenure = self._tenures[vip]
        if self._clock() >= tenure.until:
            tenure.unheard.clear()
        tenure.unheard &= {*self._hosts.absent, *self._cluster().hosts}
        able = self._able(tenure, definition)
        tenure.stand_in = stand_in(able, self._hosts.absent, tenure.stand_in)
        return tenure.stand_in

    def stand_ins(self) -> set[str]:
        """Of all VIPs."""
        return {t.stand_in for t in self._tenures.values() if t.stand_in is not None}

    def dead(self, hosts: Collection[str]) -> None:
        """They have no connections any more: they do not even answer for their addresses."""
        for tenure in self._tenures.values():
            tenure.unheard.difference_update(hosts)

    def _able(self, tenure: _Tenure, definition: Definition) -> set[str]:
        """Those that may have connections to the VIP at all."""
        known = {**self._hosts.hosts, **self._cluster().hosts}
        return asked(definition, {host: known[host] for host in tenure.unheard if host in known})
