# SPDX-License-Identifier: Apache-2.0
"""Whether an absent host is there at all: who is dead has no connections to be kept."""

from __future__ import annotations

from collections.abc import Callable, Collection

from anyport.decide.rows import Path
from anyport.distributor.hops import Choices
from anyport.errors import KernelError
from anyport.kernel import neighbours
from anyport.kernel.netlink import Interface
from anyport.model.definition import Address

DEAD_SECONDS = 10.0
"""Without an answer: a link that is cut for less costs no connection, and clients of a host that
died are told (by a reset) after that."""


class Pulse:
    """Hosts behind a router, which no ARP or neighbour discovery reaches, count as alive."""

    def __init__(self, interface: Interface, clock: Callable[[], float]) -> None:
        self._interface = interface
        self._clock = clock
        self._silent: dict[str, float] = {}

    async def dead(self, hosts: Collection[str], choices: Choices) -> set[str]:
        """Of `hosts`, those that have been asked, again and again, and did not answer."""
        self._silent = {host: at for host, at in self._silent.items() if host in hosts}
        for host in hosts:
            address = _on_lan(host, choices)
            if address is None or await self._answers(address):
                self._silent.pop(host, None)
            else:
                self._silent.setdefault(host, self._clock())
        now = self._clock()
        return {host for host, since in self._silent.items() if now - since >= DEAD_SECONDS}

    async def _answers(self, address: Address) -> bool:
        try:
            return await neighbours.probe(address, self._interface) is not None
        except KernelError:
            return True  # for all that is known


def _on_lan(host: str, choices: Choices) -> Address | None:
    hops = [choice.hop for choice in choices.get(host, {}).values()]
    return next((hop.address for hop in hops if hop.path == Path.L2), None)
