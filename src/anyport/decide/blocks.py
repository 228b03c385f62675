# SPDX-License-Identifier: Apache-2.0
"""Port blocks: who owns which, what to claim next, what to give back (R7)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from anyport.model import Claim, Definition, Distributing, PortBlock, PortSet
from anyport.model.definition import Address

MOST_NAMED = 16
"""Refused claims of one host that a publication names: 1,024 of the 64 hosts there may be
(decide.rows.MAX_HOSTS), some 20 KB of the 64 KiB that a registry value may have."""

MOST_CLAIMS = 4096
"""Of one host, the void ones among them: a host that has so many claims no more, and what another
claims beyond them owns nothing (registry.limits). With 128 ports a block, all there are of 16 VIPs
are fewer."""

MOST_VOIDS = 16 * MOST_CLAIMS
"""By one distributor; it declares no more, and then the claims of who is away go on to count."""

PortBits = int
"""A set of ports as an integer, bit n for port n: overlaps cost one `&`."""


@dataclass(frozen=True, slots=True)
class BlockPolicy:
    """`[blocks]` of the config.

    `size`, `largest`: ports of the first block and of the largest. Blocks lie
    in first..last. A new one is claimed when fewer than `low_water` ports are
    free.
    """

    size: int = 64
    first: int = 32768
    last: int = 60999
    low_water: int = 16
    largest: int = 1024


def owners(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """The claims that own their block, oldest first.

    A claim owns unless it overlaps an older one that does. Every reader gets
    the same answer from the same claims.
    """
    owned: dict[Address, PortBits] = {}
    winners = []
    for claim in sorted(claims, key=_seniority):
        bits = _bits(claim.block.first, claim.block.last)
        if not owned.get(claim.block.vip, 0) & bits:
            owned[claim.block.vip] = owned.get(claim.block.vip, 0) | bits
            winners.append(claim)
    return tuple(winners)


def handout_blocks(
    claims: Iterable[Claim], host: str, distributing: Distributing | None
) -> tuple[PortBlock, ...]:
    """The blocks of which `host` may hand out ports for bind(VIP, 0), now.

    `claims` are those of all hosts; `distributing` is the publication of the
    VIP's present distributor: only what it has programmed is routed, and only
    what is routed may be handed out. Not of a block that the effective
    definition has come to enumerate a port of, which is not unique any more,
    nor on a host that it no longer allows, to which nothing is routed.

    A claim that was beaten must be deleted (`surrenderable`), never waited
    with: it would own when the older one goes, before that is programmed.
    """
    if distributing is None:
        return ()
    definition = distributing.definition
    programmed = dict(distributing.limits).get(host, distributing.programmed_revision)
    return tuple(
        c.block
        for c in owners(claims)
        if c.host == host
        and c.block.vip == definition.vip
        and c.create_revision <= programmed
        and c.create_revision not in distributing.refused
        and not _unwanted(definition, c)
    )


def surrenderable(
    claims: Collection[Claim],
    host: str,
    definition: Definition,
    in_use: Collection[int],
    refused: Collection[int] = (),
) -> tuple[Claim, ...]:
    """The claims of `host` on this VIP to delete now.

    Those that were beaten, of which no port was ever handed out; and those that
    the distributor `refused` (create_revisions; a former one may have routed
    them), that hold an enumerated port, or that the definition no longer allows,
    once no port of theirs is `in_use` (a socket in any state, or resting).
    """
    own = [c for c in claims if c.host == host and c.block.vip == definition.vip]
    owning = set(owners(claims))
    return tuple(
        c
        for c in own
        if c not in owning
        or (
            (c.create_revision in refused or _unwanted(definition, c))
            and not any(port in c.block for port in in_use)
        )
    )


def refuse(
    claims: Iterable[Claim], live: Iterable[tuple[int, str | None]], after: int
) -> frozenset[int]:
    """Create_revisions of the claims that a distributor cannot route to their hosts.

    `live`: port and target of each live connection of the VIP; a block never
    holds one that is another host's (the more specific connection would go on
    to its old target, or break). Claims up to revision `after` are routed
    already: their connections are their owners'.
    """
    new = [claim for claim in claims if claim.create_revision > after]
    if not new:
        return frozenset()
    targets: dict[int, set[str | None]] = {}
    for port, host in live:
        targets.setdefault(port, set()).add(host)
    return frozenset(
        claim.create_revision
        for claim in new
        if any(hosts - {claim.host} for port, hosts in targets.items() if port in claim.block)
    )


def refused_by(distributing: Distributing, claims: Iterable[Claim]) -> frozenset[int]:
    """Create_revisions of all that are refused of `claims`, those not named included."""
    limits = dict(distributing.limits)
    return distributing.refused | {
        c.create_revision
        for c in claims
        if c.block.vip == distributing.definition.vip
        and c.create_revision > limits.get(c.host, c.create_revision)
    }


def as_published(
    claims: Iterable[Claim], refused: Collection[int]
) -> tuple[frozenset[int], frozenset[tuple[str, int]]]:
    """`refused` and `limits` of a publication (model.Distributing), from the create_revisions of
    all the refused of `claims`.

    A host gives back what is named, then hears of the next. So what one host
    claims, however much, takes no room from what is said of others.
    """
    by_host: dict[str, list[int]] = {}
    for claim in sorted(claims, key=_seniority):
        if claim.create_revision in refused:
            by_host.setdefault(claim.host, []).append(claim.create_revision)
    named = (r for revisions in by_host.values() for r in revisions[:MOST_NAMED])
    limits = ((h, r[MOST_NAMED] - 1) for h, r in by_host.items() if len(r) > MOST_NAMED)
    return frozenset(named), frozenset(limits)


def is_enumerated(definition: Definition, block: PortBlock) -> bool:
    """Whether a port of the block has come to be enumerated: none of them is handed out now."""
    return isinstance(definition.ports, PortSet) and definition.ports.overlaps(
        block.first, block.last
    )


def covered(edges: Mapping[int, int]) -> Iterator[int]:
    """The ports of blocks, once each; `edges`: port -> how many begin there, less those that
    end just before (model.Cluster.excess)."""
    depth = 0
    for port, following in pairwise(sorted(edges)):
        depth += edges[port]
        if depth:
            yield from range(port, following)


def next_block(
    definition: Definition,
    claims: Iterable[Claim],
    taken_ports: Iterable[int],
    *,
    host: str,
    size: int,
    first: int,
    last: int,
) -> PortBlock | None:
    """A block of `size` ports within first..last for `host` to claim; a smaller one if none is
    left; None if not one port is.

    Never holds an enumerated port, a port of any host's claim, or one of
    `taken_ports`: the ports of any host's counted listeners on this VIP and
    of its live connections. The search starts at a place that depends on the
    host, so that hosts that claim at once seldom race for the same block.
    """
    free = _bits(first, last) & ~_reserved(definition, claims)
    if free:  # else tens of thousands of listeners would be looked at for nothing
        free &= ~_bits_of(taken_ports)
    while size and free:
        start = _place(free, size, first, last, f"{definition.vip} {host}")
        if start is not None:
            return PortBlock(definition.vip, start, start + size - 1)
        size //= 2
    return None


def wanted_size(free: int, used: int, policy: BlockPolicy) -> int:
    """Ports that the next block should have; 0: none is needed.

    `free` counts the ports of own blocks that can be handed out, those
    claimed but not yet programmed included; `used` the rest. A block as large
    as what is in use doubles what the host has, up to `policy.largest`.
    """
    if free >= policy.low_water:
        return 0
    size = policy.size
    while size < used:
        size *= 2
    return min(size, policy.largest)


def rested(freed_at: Mapping[int, float], now: float, rest_seconds: float) -> list[int]:
    """The ports, lowest first, freed at least `rest_seconds` ago; times are of one clock, in s."""
    return sorted(port for port, since in freed_at.items() if now - since >= rest_seconds)


def _seniority(claim: Claim) -> tuple[int, str, int]:
    return claim.create_revision, claim.host, claim.block.first


def _unwanted(definition: Definition, claim: Claim) -> bool:
    return not definition.allows(claim.host) or is_enumerated(definition, claim.block)


def _reserved(definition: Definition, claims: Iterable[Claim]) -> PortBits:
    """Enumerated ports, and those of any host's claims."""
    bits = 0
    if isinstance(definition.ports, PortSet):
        for first, last in (*definition.ports.tcp, *definition.ports.udp):
            bits |= _bits(first, last)
    for claim in claims:
        if claim.block.vip == definition.vip:
            bits |= _bits(claim.block.first, claim.block.last)
    return bits


def _place(free: PortBits, size: int, first: int, last: int, spread: str) -> int | None:
    """The first port of `size` free ones in a row; None: there are none.

    Multiples of `size` are preferred: blocks at any place would leave gaps
    that none fits in.
    """
    starts = _run_starts(free, size)
    starts = starts & _multiples(size, first, last) or starts
    if not starts:
        return None
    offset = first + _hash(spread) % (last - first + 1)
    return _lowest(starts >> offset << offset or starts)


def _run_starts(free: PortBits, size: int) -> PortBits:
    """The ports from which `size` ports in a row are free, found in log2(size) steps."""
    starts, length = free, 1
    while length < size:
        step = min(length, size - length)
        starts &= starts >> step
        length += step
    return starts


def _multiples(size: int, first: int, last: int) -> PortBits:
    return _bits_of(range(first, last + 1, size))


def _bits(first: int, last: int) -> PortBits:
    return (1 << (last + 1)) - (1 << first)


def _bits_of(ports: Iterable[int]) -> PortBits:
    row = bytearray(65536 // 8)
    for port in ports:
        row[port >> 3] |= 1 << (port & 7)
    return int.from_bytes(row, "little")


def _lowest(bits: PortBits) -> int:
    return (bits & -bits).bit_length() - 1


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
