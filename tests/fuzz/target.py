# SPDX-License-Identifier: Apache-2.0
"""Mutated outer packets through a target's program and the model, until the two differ."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from ipaddress import IPv6Address
from random import Random

from anyport.kernel.target import TargetKernel
from anyport.model.definition import Address
from tests.fuzz import mutate
from tests.fuzz.corpus import LONGEST
from tests.fuzz.hunt import RUN, Finding, Shot
from tests.fuzz.mutate import IP, Mutator, is_ipv4, is_ipv6, payload_of, restate
from tests.packet import test_target as rows
from tests.packet.reference.ip import Frame
from tests.packet.reference.target import DROPPED, INSIDE, Outcome, Roles, decapsulate
from tests.packet.world import OUTER, OUTER6, OWN, OWN6, VIPS, in_outer
from tests.support.netns import fresh_netns

PREFIX = "target-"
"""Of a world's name, where a hook would be."""
GSO_SIZE = 1448
"""That of a Shot's context."""
ADDRESSES: Sequence[Address] = [
    *(OUTER, OUTER6, OWN, OWN6, *VIPS),
    *(rows.STRANGER, rows.STRANGER6, rows.ANOTHER, rows.ANOTHER6),
]
MAPPED = [IPv6Address(f"::ffff:{address}") for address in ADDRESSES if address.version == 4]


# ---- mutations ----


def readdress(random: Random, frame: bytearray) -> bytearray:
    """To or from another of those that are something, or nothing, to the target."""
    if is_ipv4(frame):
        here = IP + random.choice([12, 16])
        known = [a.packed for a in ADDRESSES if a.version == 4]
    elif is_ipv6(frame):
        here = IP + random.choice([8, 24])
        known = [a.packed for a in (*ADDRESSES, *MAPPED) if a.version == 6]
    else:
        return frame
    address = random.choice(known)
    frame[here : here + len(address)] = address
    return frame


def relabel(random: Random, frame: bytearray) -> bytearray:
    """As if something else were inside."""
    if is_ipv4(frame) or is_ipv6(frame):
        protocol = random.choice([4, 4, 41, 41, 0, 6, 44, 47, 94])
        frame[IP + (9 if is_ipv4(frame) else 6)] = protocol
    return frame


def mislay(random: Random, frame: bytearray) -> bytearray:
    """The inner packet: a header of another length, where one of IPv4 states it."""
    if is_ipv4(frame):
        frame[IP] = frame[IP] & 0xF0 | random.choice([0, 3, 4, 4, 4, 6, 15])
    return frame


def congest(random: Random, frame: bytearray) -> bytearray:
    (first,) = struct.unpack_from("!H", frame, IP) if len(frame) >= IP + 2 else (0,)
    bits = random.randrange(4) << (4 if is_ipv6(frame) else 0)
    frame[IP : IP + 2] = struct.pack("!H", first ^ bits)
    return frame


def nest(random: Random, frame: bytearray) -> bytearray:
    """In one more outer packet."""
    if not (is_ipv4(frame) or is_ipv6(frame)):
        return frame
    targets: list[Address] = [OUTER, OUTER6]
    return bytearray(in_outer(bytes(frame), random.choice(targets)))


def inside(random: Random, frame: bytearray) -> bytearray:
    """Any of these, of the inner packet."""
    here = payload_of(frame)
    protocol = frame[IP + (9 if is_ipv4(frame) else 6)] if len(frame) > here else 0
    if protocol not in INSIDE:
        return frame
    inner = frame[:12] + INSIDE[protocol].to_bytes(2) + frame[here:]
    changed = random.choice(MUTATIONS[:-1])(random, inner)
    outer = frame[:here] + changed[IP:]
    return restate(outer) if random.random() < 0.7 else outer


MUTATIONS = [
    *mutate.MUTATIONS,
    *(readdress, readdress, relabel, congest, congest, mislay, nest),
    inside,
]
INSIDE_AS_OFTEN = [inside] * (len(MUTATIONS) // 2)


# ---- the hunt ----


@contextmanager
def fresh_target() -> Iterator[TargetKernel]:
    with fresh_netns(), closing(TargetKernel.load(1, None)) as target:
        yield target


def hunt(target: TargetKernel, seed: int, count: int) -> Iterator[Finding | None]:
    """After each run what it found: one packet, as none depends on those before."""
    frames = [case.frame for case in rows.CASES if len(case.frame) <= LONGEST]
    for number in range(-(-count // RUN)):
        world = f"{PREFIX}{seed}-{number}"
        random = Random(f"shots {world}")
        mutator = Mutator(random, frames, [*MUTATIONS, *INSIDE_AS_OFTEN])
        shots = [Shot(mutator.frame(), random.random() < 0.05) for _ in range(RUN)]
        yield run(target, world, shots)


def run(target: TargetKernel, world: str, shots: Sequence[Shot]) -> Finding | None:
    """The first wherein program and model differ."""
    roles = arrange(target, world)
    for shot in shots:
        met = meet(target, shot)
        expected = decapsulate(roles, Frame(shot.frame, GSO_SIZE if shot.gso else 0))
        if met != expected:
            return Finding(world, [shot], f"program: {met}\nmodel:   {expected}")
    return None


def meet(target: TargetKernel, shot: Shot) -> Outcome:
    """`counter`: each that moved, as often as it did."""
    before = target.counters()
    action, out, _, _ = target.decapsulate.test_run(shot.frame, shot.context)
    after = target.counters()
    moved = [name for name in after for _ in range(after[name] - before[name])]
    return Outcome(" ".join(moved), action, b"" if action == DROPPED else out)


def arrange(target: TargetKernel, world: str) -> Roles:
    """Roles that `world` draws: mostly those of the rows."""
    random = Random(f"world {world}")
    roles = Roles(
        _drawn(random, [OUTER, OUTER6]), _drawn(random, [OWN, OWN6]), _drawn(random, [*VIPS])
    )
    target.set_addresses(roles.own)
    target.set_distributors(roles.distributors)
    target.set_vips(roles.vips)
    return roles


def _drawn(random: Random, usual: list[Address]) -> frozenset[Address]:
    kept = [address for address in usual if random.random() < 0.95]
    return frozenset(kept + [address for address in ADDRESSES if random.random() < 0.05])
