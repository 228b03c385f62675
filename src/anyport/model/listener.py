# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

from anyport.model.definition import Address
from anyport.model.protocol import Protocol


@dataclass(frozen=True, slots=True)
class Socket:
    """A socket of this host that listens (TCP) or is bound and unconnected (UDP).

    `address` is the one it is bound to; a wildcard is 0.0.0.0 or ::.
    `takes_ipv4` tells `::` without IPV6_V6ONLY. `pid` 0: not known.
    """

    cookie: int
    address: Address
    protocol: Protocol
    port: int
    uid: int = 0
    pid: int = 0
    process: str = ""
    takes_ipv4: bool = True

    @property
    def wildcard(self) -> bool:
        return self.address.is_unspecified


@dataclass(frozen=True, slots=True, order=True)
class ListenerKey:
    """What a notification names besides the host (R4)."""

    vip: Address
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class Listener:
    """One host's listener on one port of a VIP, however many sockets make it up (R4)."""

    vip: Address
    protocol: Protocol
    port: int
    host: str
    specific: bool = True
    user: str = ""
    process: str = ""

    @property
    def key(self) -> ListenerKey:
        return ListenerKey(self.vip, self.protocol, self.port)


@dataclass(frozen=True, slots=True)
class Notification:
    """The connection administration message (claim 15): a listener opened, changed or closed."""

    key: ListenerKey
    listener: Listener | None
    """None: it closed."""
