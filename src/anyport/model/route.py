# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

from anyport.model.protocol import Protocol

PortKey = tuple[Protocol, int]


@dataclass(frozen=True, slots=True, order=True)
class Target:
    host: str
    weight: int


@dataclass(frozen=True, slots=True)
class Distributed:
    """One of `targets` (sorted by host, never empty), by the definition's method (R6).

    `keeping`: hosts that are given no new flow and keep those of UDP that they have, drained ones.
    """

    targets: tuple[Target, ...]
    keeping: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unique:
    """Always to `host` (R7)."""

    host: str


Route = Distributed | Unique
