# SPDX-License-Identifier: Apache-2.0
"""The life of this host's block ports (R7): free -> handed out -> resting -> free.

The kernel pops free ports by itself at bind(VIP, 0); here they are put back,
once nothing is left on them and they have rested.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol as Interface

from anyport.decide.blocks import rested
from anyport.kernel.listen import HandedPort
from anyport.model import PortBlock, Protocol
from anyport.model.definition import Address

log = logging.getLogger(__name__)

PoolKey = tuple[Address, Protocol]


class PoolKernel(Interface):
    """The part of ListenKernel that hands ports out."""

    def fill(self, vip: Address, protocol: Protocol, ports: Iterable[int]) -> None: ...
    def pool(self, vip: Address, protocol: Protocol) -> list[int]: ...
    def handed(self) -> list[HandedPort]: ...
    def freed(self, cookie: int) -> object: ...
    def bindable(self, vip: Address, protocol: Protocol, port: int) -> bool: ...


class PortPools:
    """What every port of this host's blocks is doing. Times are monotonic seconds."""

    def __init__(self, kernel: PoolKernel, rest_seconds: float, clock: Callable[[], float]) -> None:
        self._kernel = kernel
        self._rest = rest_seconds
        self._clock = clock
        self._usable: dict[Address, set[int]] = {}
        self._free: dict[PoolKey, set[int]] = {}  # what is in the kernel's pool
        self._resting: dict[PoolKey, dict[int, float]] = {}
        self._handed: dict[int, tuple[PoolKey, int, float]] = {}
        self._by_port: dict[tuple[PoolKey, int], int] = {}

    def adopt(self, vip: Address) -> None:
        """After a restart, or lost events: what the kernel has free or handed out stays so."""
        self._forget_handed(vip)
        for protocol in Protocol:
            self._free[vip, protocol] = set(self._kernel.pool(vip, protocol))
        for port in self._kernel.handed():
            if port.vip == vip:
                self.on_handed(port.cookie, vip, port.protocol, port.port)

    def use(self, vip: Address, blocks: Iterable[PortBlock], fresh: Callable[[int], bool]) -> None:
        """The ports that may be handed out now are those of `blocks`, and no others.

        A port not seen before is offered at once if `fresh(port)`, else after a rest.
        """
        self._usable[vip] = {p for block in blocks for p in range(block.first, block.last + 1)}
        for protocol in Protocol:
            key = (vip, protocol)
            free = self._free.setdefault(key, set())
            resting = self._resting.setdefault(key, {})
            for port in resting.keys() - self._usable[vip]:
                del resting[port]
            for port in self._usable[vip] - free - resting.keys():
                if (key, port) not in self._by_port:
                    resting[port] = float("-inf") if fresh(port) else self._clock()
            self._refill(key)

    def on_handed(self, cookie: int, vip: Address, protocol: Protocol, port: int) -> None:
        key = (vip, protocol)
        self._free.setdefault(key, set()).discard(port)
        self._handed[cookie] = (key, port, self._clock())
        self._by_port[key, port] = cookie

    def on_freed(self, cookie: int, vip: Address, protocol: Protocol, port: int) -> None:
        """Cookie 0: the kernel popped the port, found that it is not ours now, and let it go."""
        key = (vip, protocol)
        self._handed.pop(cookie, None)
        self._by_port.pop((key, port), None)
        self._free.setdefault(key, set()).discard(port)
        if port in self._usable.get(vip, ()):
            self._resting.setdefault(key, {})[port] = self._clock()

    def tick(self) -> None:
        """Puts rested ports back, and takes back those whose socket went unseen.

        An MPTCP socket that was bound and closed without listening gives no
        event: without this its port would be lost (the fault IBM PI06006).
        """
        long_ago = self._clock() - max(self._rest, 1.0)
        for cookie, (key, port, since) in list(self._handed.items()):
            if since < long_ago:
                if self._kernel.bindable(*key, port):
                    self._kernel.freed(cookie)
                    self.on_freed(cookie, *key, port)
                else:
                    self._handed[cookie] = (key, port, self._clock())
        for key in list(self._resting):
            self._refill(key)

    def _refill(self, key: PoolKey) -> None:
        """Offers what has rested and has no socket in any state left on it."""
        resting = self._resting[key]
        ready = []
        for port in rested(resting, self._clock(), self._rest):
            if self._kernel.bindable(*key, port):
                del resting[port]
                ready.append(port)
            else:
                resting[port] = self._clock()
        if ready:
            self._free[key].update(ready)
            self._kernel.fill(*key, ready)

    def free(self, vip: Address) -> int:
        """Ports that can be handed out now, for the protocol that has fewer."""
        usable = self._usable.get(vip, set())
        return min(len(self._free.get((vip, protocol), set()) & usable) for protocol in Protocol)

    def pending(self, vip: Address, own: Iterable[PortBlock]) -> int:
        """Ports of own blocks that wait for the distributor to route them."""
        usable = self._usable.get(vip, set())
        return sum(b.last - b.first + 1 for b in own if b.first not in usable)

    def in_use(self, vip: Address) -> set[int]:
        """Ports with a socket, or resting after one."""
        resting = {p for protocol in Protocol for p in self._resting.get((vip, protocol), ())}
        return resting | {port for (of, _), port in self._by_port if of == vip}

    def vacant(self, block: PortBlock) -> bool:
        """Whether no socket in any state is left on any port of the block."""
        return all(
            self._kernel.bindable(block.vip, protocol, port)
            for protocol in Protocol
            for port in range(block.first, block.last + 1)
        )

    def used(self, block: PortBlock) -> int:
        """Ports of the block with a socket, for either protocol."""
        return len({port for (vip, _), port in self._by_port if vip == block.vip and port in block})

    def forget(self, vip: Address) -> None:
        """The VIP is gone from this host."""
        self._usable.pop(vip, None)
        for protocol in Protocol:
            self._free.pop((vip, protocol), None)
            self._resting.pop((vip, protocol), None)
        self._forget_handed(vip)

    def _forget_handed(self, vip: Address) -> None:
        for cookie, (key, port, _) in list(self._handed.items()):
            if key[0] == vip:
                del self._handed[cookie]
                self._by_port.pop((key, port), None)
