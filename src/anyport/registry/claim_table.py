# SPDX-License-Identifier: Apache-2.0
"""Which claims of port blocks count: all but those that a distributor has declared void.

From the registry alone, so that every reader has the same answer at the same
revision: a claim counts while no host has a void of its revision. Whoever
claims the ports after that does so at a later revision, at which all know of it.
"""

from __future__ import annotations

from collections import defaultdict

from anyport.model import Claim, PortBlock, Void
from anyport.model.definition import Address
from anyport.registry.keys import ClaimKey, VoidKey


class ClaimTable:
    def __init__(self) -> None:
        self.counting: dict[tuple[str, PortBlock], Claim] = {}
        self.voided: dict[tuple[str, PortBlock], Claim] = {}
        self.voids: dict[tuple[Address, int], dict[str, Void]] = {}
        self.excess: dict[Address, dict[int, int]] = {}
        """See model.Cluster: some numbers a claim, as a host may have a million of them."""
        self._skipped: dict[ClaimKey, PortBlock] = {}
        self._said: dict[ClaimKey, Claim] = {}
        self._by_revision: defaultdict[tuple[Address, int], set[ClaimKey]] = defaultdict(set)

    def set_claim(self, key: ClaimKey, claim: Claim | None) -> bool:
        """Whether that changed which claims there are, or which of them count."""
        if (skipped := self._skipped.pop(key, None)) is not None:
            self._cover(skipped, -1)
        old = self._said.pop(key, None)
        if old is not None:
            self._forget_revision(key, _about(old))
        changed = old is not None and (claim is None or claim.block != old.block)
        if old is not None and changed:
            self.counting.pop((old.host, old.block), None)
            self.voided.pop((old.host, old.block), None)
        if claim is not None:
            self._said[key] = claim
            self._by_revision[_about(claim)].add(key)
            changed |= self._place(claim)
        return changed

    def skip(self, key: ClaimKey, claim: Claim) -> None:
        """One that was set to None, as its host has too many."""
        self._skipped[key] = claim.block
        self._cover(claim.block, 1)

    def set_void(self, key: VoidKey, void: Void | None) -> bool:
        """As `set_claim`. A void may come before its claim, in a listing, or stay behind it."""
        about = key.vip, key.claim
        by_host = self.voids.setdefault(about, {})
        if void is None:
            by_host.pop(key.host, None)
        else:
            by_host[key.host] = void
        if not by_host:
            del self.voids[about]
        concerned = [self._said[claimed] for claimed in self._by_revision.get(about, ())]
        return sum(map(self._place, concerned)) > 0  # all are placed, not the first only

    def _cover(self, block: PortBlock, count: int) -> None:
        edges = self.excess.setdefault(block.vip, {})
        for port, step in ((block.first, count), (block.last + 1, -count)):
            edges[port] = edges.get(port, 0) + step
            if not edges[port]:
                del edges[port]
        if not edges:
            del self.excess[block.vip]

    def _place(self, claim: Claim) -> bool:
        here, elsewhere = self.counting, self.voided
        if _about(claim) in self.voids:
            here, elsewhere = elsewhere, here
        where = claim.host, claim.block
        changed = elsewhere.pop(where, None) is not None or here.get(where) != claim
        here[where] = claim
        return changed

    def _forget_revision(self, key: ClaimKey, about: tuple[Address, int]) -> None:
        self._by_revision[about].discard(key)
        if not self._by_revision[about]:
            del self._by_revision[about]


def _about(claim: Claim) -> tuple[Address, int]:
    """What a void names it by."""
    return claim.block.vip, claim.create_revision
