# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv6Address

from anyport.model.definition import Address


class HostState(enum.Enum):
    ACTIVE = "active"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Drain:
    """The operator's wish that `host` is given no new connections.

    `since`: Unix time (s). `create_revision`: the registry's when it was wished.
    """

    host: str
    since: float
    create_revision: int = 0


@dataclass(frozen=True, slots=True)
class Remaining:
    """What a drained host says: so many TCP connections of the VIPs are left on it."""

    host: str
    connections: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A host's word that it lives, said again every `ttl` seconds, its lease's."""

    host: str
    ttl: int


class PathWish(enum.Enum):
    """By which path a host wants its packets; AUTO: by what the route to it says."""

    AUTO = "auto"
    L2 = "l2"
    IPIP = "ipip"


@dataclass(frozen=True, slots=True)
class Host:
    """One Linux machine of the cluster, as it describes itself in the registry.

    `address6`: its IPv6 address, if `address` is an IPv4 one and it has both.
    `mac`: of its LAN interface, 6 bytes; empty if not told.
    `state` DRAINING: new connections go elsewhere; the operator said so (Drain).
    `since`: Unix time (s) at which its daemon joined. `instance` tells two
    daemons of one name apart. That it lives, its lease and its heartbeat say.
    """

    name: str
    address: Address
    weight: int = 100
    state: HostState = HostState.ACTIVE
    since: float = 0.0
    instance: str = ""
    address6: IPv6Address | None = None
    mac: bytes = b""
    path: PathWish = PathWish.AUTO

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (self.address,) if self.address6 is None else (self.address, self.address6)

    def address_for(self, version: int) -> Address | None:
        """Where packets of IP `version` (4 or 6) are sent to."""
        return next((a for a in self.addresses if a.version == version), None)
