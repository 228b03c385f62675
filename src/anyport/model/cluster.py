# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anyport.model.definition import Address, Definition
from anyport.model.host import Drain, Host, Remaining
from anyport.model.listener import Listener
from anyport.model.port_block import Claim, PortBlock, Void
from anyport.model.route import PortKey


@dataclass(frozen=True, slots=True)
class Candidacy:
    """A host's wish to distribute `vip`. Lowest rank, then lowest create_revision, is elected."""

    vip: Address
    host: str
    rank: int
    create_revision: int


@dataclass(frozen=True, slots=True)
class Distributing:
    """What the distributor of a VIP publishes (R1).

    `term` grows with each tenure. `definition` is the effective one.
    `programmed_revision`: every claim with a create_revision at or below it is
    routed to its owner, so its ports may be handed out (R7), but for the claims
    `refused`, by their create_revision: connections to other hosts live on
    their ports. Of a host with too many of those, only the oldest are named, and
    `limits` has the revision up to which its claims are routed instead.
    `gathering`: it has announced the VIP, and asks hosts for their connections.
    """

    host: str
    term: int
    definition: Definition
    programmed_revision: int
    refused: frozenset[int] = frozenset()
    limits: frozenset[tuple[str, int]] = frozenset()
    gathering: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionsPiece:
    """Of what `host` answers to a distributor that gathers: its connections to the VIP.

    `term`: the distributor's. `pieces`: how many make up the whole answer.
    `rows`: as kernel.own_connections has them.
    """

    host: str
    term: int
    pieces: int
    rows: bytes = b""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the registry says at `revision`, parsed.

    The mappings are views: the registry's mirror, the only writer, updates
    them between decisions, never during one (decisions do not await).
    `listeners` is by VIP, then port, then host. `drains` are of hosts that may
    be away; whether one of `hosts` is drained its state says, too. `claims` are those that count;
    those that were voided are in `voided`, until their hosts delete them, and
    `voids` says by whom. Claims beyond what their host may have own nothing, but
    one of them will when another of its host goes: their ports are nobody's.
    `excess` has them by VIP, as port -> how many begin there, less those that
    end just before. `connections` are the pieces of each host, by number.
    """

    revision: int
    definitions: Mapping[Address, Definition]
    hosts: Mapping[str, Host]
    listeners: Mapping[Address, Mapping[PortKey, Mapping[str, Listener]]]
    claims: Mapping[tuple[str, PortBlock], Claim]
    candidacies: Mapping[tuple[Address, str], Candidacy]
    distributing: Mapping[tuple[Address, str], Distributing]
    drains: Mapping[str, Drain] = field(default_factory=dict)
    remaining: Mapping[str, Remaining] = field(default_factory=dict)
    voided: Mapping[tuple[str, PortBlock], Claim] = field(default_factory=dict)
    voids: Mapping[tuple[Address, int], Mapping[str, Void]] = field(default_factory=dict)
    excess: Mapping[Address, Mapping[int, int]] = field(default_factory=dict)
    connections: Mapping[tuple[Address, str], Mapping[int, ConnectionsPiece]] = field(
        default_factory=dict
    )
