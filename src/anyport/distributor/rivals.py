# SPDX-License-Identifier: Apache-2.0
"""Other hosts that publish, or announce, a VIP that this one distributes."""

from __future__ import annotations

from collections.abc import Callable

from anyport.distributor.lan import Lan
from anyport.distributor.office import Office
from anyport.distributor.programmer import Programmer
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.base import Registry
from anyport.registry.keys import DistributingKey
from anyport.registry.mirror import Mirror


class Rivals:
    def __init__(
        self,
        host: str,
        registry: Registry,
        mirror: Mirror,
        lan: Lan,
        elected: Callable[[Address], str | None],
        mac: bytes,
        problem: Callable[[Address, str], None],
    ) -> None:
        """`elected`: who is, as the mirror shows it. `problem` is told why a VIP is not
        distributed; empty: it is."""
        self._host = host
        self._registry = registry
        self._mirror = mirror
        self._lan = lan
        self._elected = elected
        self._mac = mac
        self._problem = problem

    def answer(self, office: Office) -> None:
        """A host that published the VIP beside us has announced it; so do we, now that it has
        come or gone, or its neighbours would stay with it. But for our successor, of which we may
        hear before we hear that our lease is gone: it would be fenced."""
        published = self._mirror.cluster.distributing
        rivals = {host for vip, host in published if vip == office.vip} - {self._host}
        changed, office.rivals = rivals != office.rivals, rivals
        if changed and office.answering and self._elected(office.vip) == self._host:
            self._lan.announce_again(office.vip)

    async def check_fence(self, office: Office, programmer: Programmer) -> None:
        """Only a registry that answers now, and says so, lifts a fence: else another host has it.

        What the mirror shows may be seconds old. While our publication has stood without a gap
        since we took office, nobody else was elected.
        """
        if office.ended:
            return  # while another VIP was looked at
        if not programmer.fenced(office.vip):
            self._problem(office.vip, "")
            return
        self._problem(office.vip, "another machine on the LAN announced it")
        key = str(DistributingKey(self._host, office.vip))
        present = {e.key: e.value for e in (await self._registry.list(key)).entries}
        stands = present.get(key) == values.encode(office.published)
        if stands and not office.ended:
            programmer.answer(office.definition, self._mac)
            self._lan.announce(office.vip)
