# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

from anyport.model.definition import Address

MAX_BLOCK_PORTS = 8192
"""Ports of one block; a claim of more is nobody's (one host must not take them all at once)."""


@dataclass(frozen=True, slots=True, order=True)
class PortBlock:
    """The ephemeral ports first..last of a VIP (both protocols), to be leased to one host."""

    vip: Address
    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def overlaps(self, other: PortBlock) -> bool:
        return self.vip == other.vip and self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Claim:
    """A host's claim of a block. Of overlapping claims the lowest `create_revision` owns.

    The registry gives `create_revision`; it is unique, as a claim is created
    by a transaction of its own. One that was written again counts from then
    on: else a host could let an old claim grow over others' blocks.
    """

    block: PortBlock
    host: str
    create_revision: int


@dataclass(frozen=True, slots=True)
class Void:
    """`host`, a distributor, says that a claim counts no more, for good: whose it is was away for
    longer than the quarantine. `claim` is its create_revision.
    """

    vip: Address
    claim: int
    host: str
