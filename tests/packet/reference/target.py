# SPDX-License-Identifier: Apache-2.0
"""An outer packet at the target: what of it goes to the local stack (ADR 14, bpf/README.md).

Where neither says more, this does: of which the rows of test_target are the record.
- The inner destination is read where the outer protocol says, and may lie in the padding.
- The outer protocol is that of the fixed header: an outer packet with IPv6 extension headers,
  fragments among them, is none, and passes.
- A payload length of 0 states none (RFC 2675): only a packet that the kernel has put together
  is as long as it is.

A test run limits what can be asked: it shows a VLAN's tag in the frame, where the kernel has
taken it out; and what it says the kernel has put together has no kind, so the kernel refuses to
take the outer header off (`drop_room`), whatever the packet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from anyport.decide.rows import Family
from anyport.model.definition import Address
from tests.packet.reference.ip import (
    ETHERNET,
    IPV4,
    IPV4_FIXED,
    IPV6,
    IPV6_FIXED,
    Frame,
    Packet,
    is_mapped,
    read_ip,
)

PASSED, UP, DROPPED = 0xFFFFFFFF, 0, 2
"""TC_ACT_UNSPEC: to the next program; TC_ACT_OK: past all; TC_ACT_SHOT."""
INSIDE = {4: IPV4, 41: IPV6}
"""RFC 2003 3.1; RFC 2473 3 and RFC 4213 3.5."""
NOT_ECT, ECT_1, ECT_0, CE = range(4)
LEAVING: dict[int, dict[int, int | None]] = {
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT_0: NOT_ECT, ECT_1: NOT_ECT, CE: None},
    ECT_0: {NOT_ECT: ECT_0, ECT_0: ECT_0, ECT_1: ECT_1, CE: CE},
    ECT_1: {NOT_ECT: ECT_1, ECT_0: ECT_1, ECT_1: ECT_1, CE: CE},
    CE: {NOT_ECT: CE, ECT_0: CE, ECT_1: CE, CE: CE},
}
"""RFC 6040 4.2, figure 4: inner, then outer; None: dropped."""


@dataclass(frozen=True)
class Roles:
    """What addresses are to this host; one may be several things."""

    own: frozenset[Address]
    distributors: frozenset[Address]
    vips: frozenset[Address]


@dataclass(frozen=True)
class Outcome:
    """`counter` empty: none moves. `out` empty: dropped, and nobody sees what is left."""

    counter: str
    action: int
    out: bytes = b""


def decapsulate(roles: Roles, frame: Frame) -> Outcome:
    outer = read_ip(frame)
    if outer is None or not _is_for_us(roles, outer):
        return Outcome("", PASSED, frame.raw)
    inner_frame = _inside(frame, outer)
    inner = read_ip(inner_frame)
    trusted = outer.source in roles.distributors
    if inner is None or is_mapped(inner.destination):
        return Outcome("drop_malformed", DROPPED) if trusted else Outcome("", PASSED, frame.raw)
    if inner.destination not in roles.vips:
        return Outcome("", PASSED, frame.raw)
    if not trusted:
        return Outcome("drop_source", DROPPED)
    reason = _refused(frame, outer, inner_frame, inner)
    if reason:
        return Outcome(reason, DROPPED)
    ecn = LEAVING[_ecn(inner_frame)][_ecn(frame)]
    assert ecn is not None
    return Outcome("decapsulated", UP, _marked(inner_frame, ecn))


def _is_for_us(roles: Roles, outer: Packet) -> bool:
    """To an address of this host; with an inner header, which later fragments have not."""
    is_ip = outer.version == (6 if outer.family is Family.IPV6 else 4)
    return (
        is_ip
        and outer.header >= IPV4_FIXED
        and outer.protocol in INSIDE
        and outer.destination in roles.own
        and not outer.fragment.offset
    )


def _inside(frame: Frame, outer: Packet) -> Frame:
    """With the Ethernet header and the padding of the outer one."""
    type = INSIDE[outer.protocol].to_bytes(2)
    return Frame(frame.raw[:12] + type + frame.packet[outer.header :], frame.gso_size)


def _refused(frame: Frame, outer: Packet, inner_frame: Frame, inner: Packet) -> str:
    """Why, if it is: the first that is true of it."""
    if outer.fragment.is_part:
        return "drop_fragment"
    if not (outer.total <= len(frame.packet) and outer.header + inner.total <= outer.total):
        return "drop_malformed"
    if not _is_sound(inner, bool(frame.gso_size)):
        return "drop_malformed"
    if LEAVING[_ecn(inner_frame)][_ecn(frame)] is None:
        return "drop_ecn"
    return "drop_room" if frame.gso_size else ""


def _is_sound(inner: Packet, put_together: bool) -> bool:
    """An inner packet, by itself."""
    if inner.family is Family.IPV6:
        return inner.version == 6 and (inner.total > IPV6_FIXED or put_together)
    return inner.version == 4 and IPV4_FIXED <= inner.header <= inner.total


# ---- congestion ----


def _ecn(frame: Frame) -> int:
    """The last two bits of the traffic class (RFC 3168 5, 24)."""
    first = int.from_bytes(frame.packet[:2])
    return (first >> 4 if frame.type == IPV6 else first) & 3


def _marked(frame: Frame, ecn: int) -> bytes:
    """The sum of IPv4 by RFC 1624, so a wrong one stays wrong."""
    shift = 4 if frame.type == IPV6 else 0
    (before,) = struct.unpack_from("!H", frame.packet)
    after = before & ~(3 << shift) | ecn << shift
    if after == before:
        return frame.raw
    out = bytearray(frame.raw)
    struct.pack_into("!H", out, ETHERNET, after)
    if frame.type == IPV4:
        (check,) = struct.unpack_from("!H", out, ETHERNET + 10)
        struct.pack_into("!H", out, ETHERNET + 10, _updated(check, before, after))
    return bytes(out)


def _updated(check: int, before: int, after: int) -> int:
    """RFC 1624 3, [Eqn. 3]."""
    total = (check ^ 0xFFFF) + (before ^ 0xFFFF) + after
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
