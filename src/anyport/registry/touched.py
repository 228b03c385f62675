# SPDX-License-Identifier: Apache-2.0
"""What changed in the cluster since a consumer last looked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from anyport.model import PortKey
from anyport.model.definition import Address


@dataclass(slots=True)
class Touched:
    """Names of what appeared, changed or went; look in the Cluster for what it is now.

    `first`: this is everything that the consumer's first complete listing
    brought; before it nothing is known, and nothing is to be done.
    """

    definitions: set[Address] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    ports: set[tuple[Address, PortKey]] = field(default_factory=set)
    claims: set[Address] = field(default_factory=set)
    candidacies: set[Address] = field(default_factory=set)
    distributing: set[Address] = field(default_factory=set)
    connections: set[Address] = field(default_factory=set)
    first: bool = False

    def __bool__(self) -> bool:
        return self.first or any(self._sets())

    def add(self, other: Touched) -> None:
        self.first |= other.first
        for mine, theirs in zip(self._sets(), other._sets(), strict=True):
            mine.update(theirs)

    def _sets(self) -> tuple[set[Any], ...]:
        return (
            self.definitions,
            self.hosts,
            self.ports,
            self.claims,
            self.candidacies,
            self.distributing,
            self.connections,
        )


class Subscription:
    """One consumer's share: every change reaches it, in as many pieces as it asks for."""

    def __init__(self) -> None:
        self._pending = Touched()
        self._news = asyncio.Event()
        self._waits = False

    @property
    def is_followed(self) -> bool:
        """Whether the consumer has dealt with all there was, and waits for more."""
        return self._waits and not self._pending

    def add(self, touched: Touched) -> None:
        self._pending.add(touched)
        self._news.set()

    async def changed(self) -> Touched:
        """Waits for changes; all since the last call, the consumer's own from here on."""
        self._waits = True
        await self._news.wait()
        self._waits = False
        self._news.clear()
        touched, self._pending = self._pending, Touched()
        return touched
