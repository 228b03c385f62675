# SPDX-License-Identifier: Apache-2.0
"""What happens in a run: a seed always gives the same rounds.

In a round faults come, overlap and go; it ends when the cluster is well again,
before the next one begins. Meanwhile programs listen and stop listening.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DISTRIBUTOR, TARGET, ALL = "distributor", "target", "all"
"""Hosts whose name is known when the fault comes: `target` is one that does not distribute."""

CLUSTER = ""
"""Of what hits no host of its own."""

SHARED_TCP = (8001, 8002, 8003, 8004)
SHARED_UDP = (8001, 8002)
"""Ports that come and go, on any host."""

METHODS = ("hash", "round-robin")
COME_SECONDS = 3.0
"""A round's faults begin within so long."""


@dataclass(frozen=True)
class Kind:
    """Of fault: how often, how long (seconds, least and most), what it can hit."""

    weight: int
    lasts: tuple[float, float] = (0.0, 0.0)
    hits: tuple[str, ...] = (CLUSTER,)


_ANY = (DISTRIBUTOR, TARGET)
_DAEMONS = (DISTRIBUTOR, TARGET, ALL)

KINDS = {
    "kill": Kind(5, (0.1, 6.0), _DAEMONS),
    "freeze": Kind(4, (0.3, 6.0), _DAEMONS),
    "stop": Kind(4, (0.0, 5.0), _ANY),
    "upgrade": Kind(3, (0.0, 0.0), _DAEMONS),
    "etcd_kill": Kind(2, (0.1, 6.0)),
    "etcd_freeze": Kind(2, (0.3, 7.0)),
    "etcd_empty": Kind(1),
    "etcd_cut": Kind(4, (0.5, 8.0), _ANY),
    "lan_cut": Kind(3, (0.2, 6.0), _ANY),
    "compact": Kind(2),
    "drain": Kind(4, (0.5, 6.0), _ANY),
    "method": Kind(2),
    "server_kill": Kind(2, (0.2, 3.0), _ANY),
    # For longer than the quarantine: the host's port blocks are another's then.
    "away": Kind(1, (26.0, 34.0), _ANY),
    "etcd_gone": Kind(1, (26.0, 34.0), _ANY),
}


@dataclass(frozen=True)
class Step:
    """`at`: seconds after the round's begin; it is undone `lasts` later."""

    at: float
    what: str
    hits: str
    lasts: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Use:
    """A program listens on a port of the VIP, 0: one it is given, for so long."""

    at: float
    host: str
    protocol: str
    port: int
    lasts: float


@dataclass(frozen=True)
class Round:
    number: int
    faults: tuple[Step, ...]
    uses: tuple[Use, ...]


def rounds(seed: int, hosts: Sequence[str]) -> Iterator[Round]:
    """Without end."""
    dice = random.Random(seed)
    number = 0
    while True:
        number += 1
        faults = sorted((_fault(dice) for _ in range(dice.randint(1, 3))), key=lambda s: s.at)
        uses = sorted((_use(dice, hosts) for _ in range(dice.randint(4, 8))), key=lambda u: u.at)
        yield Round(number, tuple(faults), tuple(uses))


def _fault(dice: random.Random) -> Step:
    [what] = dice.choices(list(KINDS), [kind.weight for kind in KINDS.values()])
    kind = KINDS[what]
    at, lasts = dice.uniform(0, COME_SECONDS), dice.uniform(*kind.lasts)
    detail = dice.choice(METHODS) if what == "method" else ""
    return Step(round(at, 2), what, dice.choice(kind.hits), round(lasts, 2), detail)


def _use(dice: random.Random, hosts: Sequence[str]) -> Use:
    protocol = dice.choice(("tcp", "tcp", "udp"))
    shared = SHARED_TCP if protocol == "tcp" else SHARED_UDP
    port = dice.choice((0, dice.choice(shared)))
    at, lasts = dice.uniform(0, 2 * COME_SECONDS), dice.uniform(1, 25)
    return Use(round(at, 2), dice.choice(list(hosts)), protocol, port, round(lasts, 2))
