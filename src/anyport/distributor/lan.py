# SPDX-License-Identifier: Apache-2.0
"""Taking the LAN's traffic for a VIP, and telling that it is taken."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import IPv6Address

from anyport.errors import KernelError
from anyport.kernel.ndp import hear_solicitations
from anyport.kernel.neighbours import Announcer
from anyport.kernel.netlink import Interface
from anyport.model.definition import Address

ANNOUNCEMENTS = 3
ANNOUNCE_SECONDS = 0.3
REFRESH_SECONDS = 2.0
"""For so long a former distributor whose LAN comes back goes on beside this one. VRRP tells its
neighbours once a second (RFC 5798 6.1)."""


class Lan:
    """The VIPs that the neighbours are to find at this host's interface."""

    def __init__(
        self,
        interface: Interface,
        holds: Callable[[Address], bool],
        problem: Callable[[Address, str], None],
    ) -> None:
        """`holds`: whether the VIP is this host's for all that is known now. `problem` is told of
        what the kernel refuses."""
        self._interface = interface
        self._announcer = Announcer(interface)
        self._holds = holds
        self._problem = problem
        self._announcing: dict[Address, asyncio.Task[None]] = {}
        self._solicited: dict[Address, socket.socket] = {}

    def hear(self, vip: Address) -> None:
        """Questions for the VIP come in from now on; ARP is broadcast and needs nothing."""
        if isinstance(vip, IPv6Address) and vip not in self._solicited:
            self._solicited[vip] = hear_solicitations(vip, self._interface)

    def ignore(self, vip: Address) -> None:
        if vip in self._solicited:
            self._solicited.pop(vip).close()

    def announce(self, vip: Address) -> None:
        """At once, and again: what the caller says after this, it says after the announcement."""
        self.stop_announcing(vip)
        self._announce(vip)
        self._announcing[vip] = asyncio.create_task(self._announce_often(vip, 1, ANNOUNCE_SECONDS))

    def announce_again(self, vip: Address) -> None:
        """As often, from when on nobody else can have been elected."""
        self.stop_announcing(vip)
        self._announcing[vip] = asyncio.create_task(self._announce_often(vip, 0, 0))

    def stop_announcing(self, vip: Address) -> None:
        if vip in self._announcing:
            self._announcing.pop(vip).cancel()

    async def _announce_often(self, vip: Address, announced: int, pause: float) -> None:
        """At first more than once, as one frame may be lost (RFC 5227 2.3, RFC 4861 7.2.6), and
        now and then for ever: a neighbour may have heard a former distributor last. But not
        while it may be this host that is the former one: the present one would be fenced."""
        while True:
            await asyncio.sleep(pause)
            holds = self._holds(vip)
            if holds:
                self._announce(vip)
                announced += 1
            often = announced < ANNOUNCEMENTS or not holds
            pause = ANNOUNCE_SECONDS if often else REFRESH_SECONDS

    def _announce(self, vip: Address) -> None:
        try:
            self._announcer.announce(vip)
        except KernelError as error:
            self._problem(vip, str(error))
