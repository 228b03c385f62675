# SPDX-License-Identifier: Apache-2.0
"""A tenure and the connections that hosts have: who is asked, and who gets what nobody knows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from anyport.distributor.absent import RETURN_SECONDS, Returning
from anyport.distributor.gathering import GRACE_SECONDS, LONGEST_SECONDS, Gatherings
from anyport.distributor.office import Office
from anyport.distributor.programmer import Programmer
from anyport.distributor.unheard import Unheard
from anyport.model import Definition
from anyport.model.definition import Address
from anyport.registry.mirror import Mirror

log = logging.getLogger(__name__)


class Asking:
    """Of each VIP that is distributed here (docs/adr/0018)."""

    def __init__(
        self,
        mirror: Mirror,
        returning: Returning,
        unheard: Unheard,
        programmer: Callable[[], Programmer],
        offices: Mapping[Address, Office],
        say: Callable[[Office], None],
        wake: Callable[[Address], None],
    ) -> None:
        """`say` publishes an office again: hosts answer while it says `gathering`. `wake`: the VIP
        wants to be followed."""
        self._returning = returning
        self._unheard = unheard
        self._programmer = programmer
        self._offices = offices
        self._say = say
        self._gatherings = Gatherings(
            lambda: mirror.cluster,
            lambda *said: programmer().enter(*said),
            unheard.said,
            self._known,
            wake,
        )

    def begin(self, definition: Definition, anew: bool) -> float:
        """A tenure, or, not `anew`, one that a former daemon of this host began. For how many
        seconds at most unknown connections are to wait."""
        vip = definition.vip
        if not anew:
            self._unheard.resume(vip, self._programmer().stand_in(vip))
            return 0.0
        self._unheard.begin(vip)
        return self._patience() + GRACE_SECONDS

    def ask(self, office: Office) -> None:
        """All members, once the VIP has been announced: what the former distributor has let
        through until then, they know by now."""
        self._set_stand_in(office)
        self._gather(office, self._patience())

    def follow(self, vips: Iterable[Address]) -> None:
        """Pieces came, or hosts did or went, or definitions are others."""
        for vip in self._offices.keys() & {*vips}:
            self._gatherings.follow(vip, self._offices[vip].definition)

    def follow_absent(self) -> None:
        """Who has gone may have what nobody knows; who is back is asked."""
        for office in [office for office in self._offices.values() if office.answering]:
            self._set_stand_in(office)
            seconds = self._unheard.left(office.vip)
            if seconds and not self._gatherings.is_pending(office.vip):
                self._gather(office, seconds)

    def stand_ins(self) -> set[str]:
        """Of all VIPs."""
        return self._unheard.stand_ins()

    def dead(self, hosts: Collection[str]) -> None:
        """They have no connections any more."""
        self._unheard.dead(hosts)

    def end(self, vip: Address) -> None:
        self._gatherings.end(vip)
        self._unheard.end(vip)

    def _patience(self) -> float:
        """Seconds for members to answer: daemons that have just come back begin late."""
        return RETURN_SECONDS if self._returning.just_back() else LONGEST_SECONDS

    def _gather(self, office: Office, seconds: float) -> None:
        office.published = replace(office.published, gathering=True)
        self._say(office)
        self._gatherings.begin(office.vip, office.published.term, seconds)
        self._gatherings.follow(office.vip, office.definition)

    def _known(self, vip: Address, mute: Collection[str]) -> None:
        office = self._offices[vip]
        self._unheard.heard(vip, mute)
        self._set_stand_in(office)
        self._programmer().gather(vip, self._unheard.in_doubt(vip, office.definition))
        office.published = replace(office.published, gathering=False)
        self._say(office)

    def _set_stand_in(self, office: Office) -> None:
        vip, programmer = office.vip, self._programmer()
        host = self._unheard.stand_in(vip, office.definition)
        if programmer.set_stand_in(vip, host):
            log.info("vip %s: connections that nobody knows go to %s", vip, host or "no host")
