# SPDX-License-Identifier: Apache-2.0
"""Rows of the distributor's maps, and the commands that write them.

The numbers are those of bpf/abi.h; tests/abi compares the two. They stand
here because decisions are made in them and `decide` imports no kernel code.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from anyport.model import Method, PortKey
from anyport.model.definition import Address

MAX_VIPS = 16
MAX_HOSTS = 64
MAX_SELECTIONS = 512
SELECTION_SLOTS = 4093
"""Prime, as Maglev needs."""


class RouteKind(enum.IntEnum):
    NONE = 0
    UNIQUE = 1
    DISTRIBUTED = 2
    FALLBACK = 3


class Path(enum.IntEnum):
    """How packets get from the distributor to a target."""

    NONE = 0
    LOCAL = 1
    L2 = 2
    IPIP = 3


class Family(enum.IntEnum):
    """Of packets, not of the address that they are sent to."""

    IPV4 = 0
    IPV6 = 1

    @classmethod
    def of(cls, address: Address) -> Family:
        return cls.IPV4 if address.version == 4 else cls.IPV6


METHOD_NUMBERS: Mapping[Method, int] = {Method.HASH: 0, Method.ROUND_ROBIN: 1}


@dataclass(frozen=True, slots=True)
class RouteRow:
    """`kind` is a RouteKind. `target`: host slot (UNIQUE) or selection index (DISTRIBUTED).

    `hosts` is the mask of the slots of targets, and of hosts that keep their flows of UDP; it is
    set in every row but NONE's.
    """

    kind: int
    target: int = 0
    hosts: int = 0


@dataclass(frozen=True, slots=True)
class Hop:
    """How packets of one family get to a host: to `address`, of either family, by `path`.

    `path` is a Path. `ifindex`: the interface it leaves by; 0 where the path needs none, and
    for IPIP: by the one that the packet came by. For IPIP, `source` is the distributor's own
    address of the family of `address`, and `mtu` the largest outer packet that the path
    takes, in bytes; 0: not known.
    """

    address: Address | None
    path: int
    ifindex: int = 0
    source: Address | None = None
    mtu: int = 0


NO_HOP = Hop(None, Path.NONE)


@dataclass(frozen=True, slots=True)
class HostRow:
    """`weight` serves the fallback; `mac`, 6 bytes, is empty if the host tells none."""

    ipv4: Hop
    ipv6: Hop
    weight: int
    mac: bytes = b""

    @property
    def addresses(self) -> frozenset[Address]:
        """By which the host is known again."""
        return frozenset(hop.address for hop in (self.ipv4, self.ipv6) if hop.address)

    def hop(self, vip: Address) -> Hop:
        """How packets to this VIP get to the host."""
        return self.ipv4 if Family.of(vip) is Family.IPV4 else self.ipv6


@dataclass(frozen=True, slots=True)
class SelectionRow:
    """`method` is one of METHOD_NUMBERS; `slots` 1..SELECTION_SLOTS host slots."""

    method: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetHost:
    slot: int
    row: HostRow


@dataclass(frozen=True, slots=True)
class SetSelection:
    index: int
    row: SelectionRow


@dataclass(frozen=True, slots=True)
class SetRoutes:
    """Rows may be written in any order, each at once."""

    vip_index: int
    rows: Mapping[PortKey, RouteRow]


Command = SetHost | SetSelection | SetRoutes
