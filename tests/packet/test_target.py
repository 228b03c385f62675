# SPDX-License-Identifier: Apache-2.0
"""A target's programs: what distributors tunnel is decapsulated, and the MSS told fits.

RFC 2003, 2473 (tunnels), 6040 (ECN), 9293 3.7.1 (the MSS).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from socket import if_nametoindex

import pytest

from anyport.kernel.libbpf import Program
from anyport.kernel.target import TargetKernel
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.test_ipip import marked
from tests.packet.wire import Wire, fresh_wire
from tests.packet.world import (
    CLIENT,
    CLIENT6,
    DROPPED,
    OUTER,
    OUTER6,
    OWN,
    OWN6,
    PASSED,
    VIP,
    VIP6,
    VIPS,
    in_outer,
    segment,
)
from tests.support.packets import (
    ACK,
    MORE_FRAGMENTS,
    SYN,
    checksum,
    icmp,
    ipv4,
    ipv6,
    tcp,
    udp,
    vlan,
)

UP = 0
"""TC_ACT_OK: to the local stack, past the programs behind."""
STRANGER, STRANGER6 = IPv4Address("10.66.0.6"), IPv6Address("fd66::6")
ANOTHER, ANOTHER6 = IPv4Address("10.9.0.6"), IPv6Address("fd00:9::6")
ELSEWHERE, ELSEWHERE6 = IPv4Address("10.44.0.4"), IPv6Address("fd44::4")
PAIRS: dict[str, tuple[Address, Address]] = {
    "4in4": (VIP, OUTER),
    "6in6": (VIP6, OUTER6),
    "4in6": (VIP, OUTER6),
    "6in4": (VIP6, OUTER),
}


@dataclass(frozen=True)
class Case:
    """`counter` empty: none moves. `out` None: as it came in."""

    description: str
    frame: bytes
    counter: str
    action: int
    out: bytes | None = None


def decapsulated(description: str, inner: bytes, outer: Address, **fields: int) -> Case:
    frame = in_outer(inner, outer, **fields)  # type: ignore[arg-type]
    return Case(description, frame, "decapsulated", UP, inner)


def untouched(description: str, frame: bytes) -> Case:
    return Case(description, frame, "", PASSED)


def refused(description: str, frame: bytes, counter: str) -> Case:
    return Case(description, frame, counter, DROPPED)


def cut(frame: bytes, length: int) -> bytes:
    """The frame, and its outer header saying so, with this many bytes of IP."""
    packet = frame[14 : 14 + length]
    if packet[0] >> 4 == 6:
        return frame[:14] + packet[:4] + struct.pack("!H", length - 40) + packet[6:]
    head = packet[:2] + struct.pack("!H", length) + packet[4:10] + b"\0\0" + packet[12:20]
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return frame[:14] + head + packet[20:]


def to_elsewhere(vip: Address) -> bytes:
    if vip == VIP:
        return w.ip_frame(ipv4(CLIENT, ELSEWHERE, 6, tcp(5000, 80)))
    return w.ip6_frame(ipv6(CLIENT6, ELSEWHERE6, 6, tcp(5000, 80)))


def wrong_length(vip: Address, length: int) -> bytes:
    """An inner packet that states `length` more bytes than it has."""
    payload = tcp(5000, 80)
    if vip == VIP:
        return w.ip_frame(ipv4(CLIENT, VIP, 6, payload, total=40 + length))
    return w.ip6_frame(ipv6(CLIENT6, VIP6, 6, payload, length=20 + length))


def wrong_version(vip: Address) -> bytes:
    frame = segment(80, vip=vip)
    return frame[:14] + bytes([0x50 | frame[14] & 0x0F]) + frame[15:]


def each_pair(vip: Address, outer: Address) -> list[Case]:
    frame = segment(80, vip=vip)
    size = len(frame) - 14
    header = 20 if outer.version == 4 else 40
    inner = 20 if vip == VIP else 40
    stranger = STRANGER if outer.version == 4 else STRANGER6
    other = ANOTHER if outer.version == 4 else ANOTHER6
    mislabelled = in_outer(frame, outer)
    mislabelled = mislabelled[: 14 + header] + wrong_version(vip)[14:]
    return [
        decapsulated("a SYN", frame, outer),
        decapsulated("a datagram", w.datagram(80, vip=vip), outer),
        decapsulated("a full frame", segment(80, ACK, vip=vip, data=b"x" * 1400), outer),
        decapsulated("an odd length", segment(80, ACK, vip=vip, data=b"x" * 99), outer),
        decapsulated("its last hop", segment(80, vip=vip, ttl=1), outer, ttl=1),
        Case("padded", in_outer(frame, outer) + bytes(6), "decapsulated", UP, frame + bytes(6)),
        refused("from a stranger", in_outer(frame, outer, stranger), "drop_source"),
        refused("from this host itself", in_outer(frame, outer, outer), "drop_source"),
        untouched("to another host", in_outer(frame, other)),
        untouched("to another host, from a stranger", in_outer(frame, other, stranger)),
        untouched("not for a VIP", in_outer(to_elsewhere(vip), outer)),
        untouched("not for a VIP, from a stranger", in_outer(to_elsewhere(vip), outer, stranger)),
        untouched("in a VLAN", vlan(in_outer(frame, outer))),
        untouched("not tunnelled", frame),
        refused("one byte short", in_outer(frame, outer)[:-1], "drop_malformed"),
        refused(
            "half the inner header",
            cut(in_outer(frame, outer), header + inner - 1),
            "drop_malformed",
        ),
        untouched(
            "half the inner header, from a stranger",
            cut(in_outer(frame, outer, stranger), header + inner - 1),
        ),
        refused("nothing inside", cut(in_outer(frame, outer), header), "drop_malformed"),
        refused(
            "an inner packet longer than the outer",
            cut(in_outer(frame, outer), header + size - 1) + b"x",
            "drop_malformed",
        ),
        refused(
            "an inner packet that states more than there is",
            in_outer(wrong_length(vip, 1), outer),
            "drop_malformed",
        ),
        refused(
            "an inner packet that states nothing",
            in_outer(wrong_length(vip, -20 - inner % 40), outer),
            "drop_malformed",
        ),
        refused("of another version", mislabelled, "drop_malformed"),
    ]


def ecn(vip: Address, outer: Address) -> list[Case]:
    """RFC 6040, figure 4: inner and outer; what becomes of it. The DSCP is the inner one."""
    names = {0: "Not-ECT", 1: "ECT(1)", 2: "ECT(0)", 3: "CE"}
    cases = []
    for inner in names:
        for mark in names:
            frame = marked(segment(80, vip=vip), 0xB8 | inner)
            becomes = {3: 3, 1: 1 if inner == 2 else inner}.get(mark, inner)
            name = f"{names[inner]}, outside {names[mark]}"
            if mark == 3 and inner == 0:
                cases.append(refused(name, in_outer(frame, outer, tos=mark), "drop_ecn"))
                continue
            out = marked(segment(80, vip=vip), 0xB8 | becomes)
            case = decapsulated(name, frame, outer, tos=mark | 0x20)
            cases.append(replace(case, out=out))
    return cases


def in_ipv4(inner: bytes, **fields: int) -> bytes:
    packet, protocol = inner[14:], 4 if inner[14] >> 4 == 4 else 41
    outer = ipv4(OWN, OUTER, protocol, packet, **fields)  # type: ignore[arg-type]
    return inner[:12] + b"\x08\x00" + outer


def with_options(inner: bytes) -> bytes:
    packet, protocol = inner[14:], 4 if inner[14] >> 4 == 4 else 41
    return inner[:12] + b"\x08\x00" + ipv4(OWN, OUTER, protocol, packet, options=b"\x01" * 12)


NESTED = w.ip_frame(ipv4(CLIENT, VIP, 4, ipv4(CLIENT, VIP, 6, tcp(5000, 80))))
"""In a packet to the VIP another one: the local stack's to refuse."""
MAPPED, MAPPED_OWN = IPv6Address(f"::ffff:{VIP}"), IPv6Address(f"::ffff:{OWN}")

OTHERS = [
    *(
        Case(
            f"options outside, {vip}",
            with_options(segment(80, vip=vip)),
            "decapsulated",
            UP,
            segment(80, vip=vip),
        )
        for vip in VIPS
    ),
    *(
        refused(
            f"a first fragment, {vip}",
            in_ipv4(segment(80, vip=vip), fragment=MORE_FRAGMENTS),
            "drop_fragment",
        )
        for vip in VIPS
    ),
    untouched("a later fragment", in_ipv4(segment(80), fragment=MORE_FRAGMENTS | 9)),
    untouched("the last fragment", in_ipv4(segment(80), fragment=9)),
    decapsulated("only the outermost", NESTED, OUTER),
    untouched("to the VIP", w.ip_frame(ipv4(OWN, VIP, 4, segment(80)[14:]))),
    untouched("an outer header of 4 words", in_ipv4(segment(80), words=4)),
    untouched(
        "an outer header of 4 words, and a VIP where the inner destination would be",
        in_ipv4(w.ip_frame(ipv4(VIP, CLIENT, 6, tcp(80, 5000))), words=4),
    ),
    untouched("another version outside", in_ipv4(segment(80), version=5)),
    refused(
        "to an IPv4 VIP, mapped",
        in_outer(w.ip6_frame(ipv6(CLIENT6, MAPPED, 6, tcp(5000, 80))), OUTER),
        "drop_malformed",
    ),
    refused(
        "from an IPv4 distributor, mapped",
        in_outer(segment(80), OUTER6, MAPPED_OWN),
        "drop_source",
    ),
    untouched(
        "nothing inside, from an IPv4 distributor, mapped",
        cut(in_outer(segment(80), OUTER6, MAPPED_OWN), 40),
    ),
    untouched("ICMP to this host", w.ip_frame(ipv4(CLIENT, OUTER, 1, icmp(8, 0, bytes(8))))),
    untouched("UDP to this host", w.ip_frame(ipv4(CLIENT, OUTER, 17, udp(5000, 80, b"x")))),
]


def of(prefix: str, cases: list[Case]) -> list[Case]:
    return [replace(case, description=f"{prefix}: {case.description}") for case in cases]


CASES = [
    *(case for name, pair in PAIRS.items() for case in of(name, each_pair(*pair))),
    *(case for name, pair in PAIRS.items() for case in of(name, ecn(*pair))),
    *OTHERS,
]


@pytest.fixture(scope="module")
def target() -> Iterator[TargetKernel]:
    """Behind an interface whose MTU is 1500."""
    with fresh_wire() as wire, closing(TargetKernel.load(wire.index, None)) as target:
        target.set_vips(VIPS)
        target.set_addresses([OUTER, OUTER6])
        target.set_distributors([OWN, OWN6])
        yield target


def run(
    target: TargetKernel, program: Program, frame: bytes, context: bytes = b""
) -> tuple[str, int, bytes]:
    """Which counter moved, by one; the action; and the bytes."""
    before = target.counters()
    action, out, _, _ = program.test_run(frame, context)
    after = target.counters()
    moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert list(moved.values()) in ([], [1]), moved
    return "".join(moved), action, out


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_decapsulate(target: TargetKernel, case: Case) -> None:
    counter, action, out = run(target, target.decapsulate, case.frame)
    assert (counter, action) == (case.counter, case.action)
    assert out.hex() == (case.frame if case.out is None else case.out).hex()


# ---- the MSS ----

WINDOW_SCALE, NOTHING, END = b"\x03\x03\x07", b"\x01", b"\x00"


def mss(value: int) -> bytes:
    return struct.pack("!BBH", 2, 4, value)


def announced(options: bytes, vip: Address, flags: int = SYN | ACK) -> bytes:
    """A segment from the VIP with these options, its checksum right."""
    options += NOTHING * (-len(options) % 4)
    raw = tcp(80, 5000, flags, options=options)
    client = CLIENT if vip.version == 4 else CLIENT6
    pseudo = vip.packed + client.packed + struct.pack("!HH", 6, len(raw))
    raw = raw[:16] + struct.pack("!H", checksum(pseudo + raw)) + raw[18:]
    if isinstance(vip, IPv4Address):
        return w.ip_frame(ipv4(vip, CLIENT, 6, raw))
    return w.ip6_frame(ipv6(vip, CLIENT6, 6, raw))


BEFORE = {
    "first": b"",
    "behind nothing": NOTHING * 4,
    "at an odd place": NOTHING,
    "at an even place": NOTHING * 2,
    "behind another": WINDOW_SCALE,
    "behind another, at an even place": NOTHING + WINDOW_SCALE,
    "last of 40 bytes": NOTHING * 36,
}
overheads = pytest.mark.parametrize("overhead", [20, 40])
families = pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])


def announce(target: TargetKernel, frame: bytes) -> tuple[str, int, bytes]:
    context = bytes(40) + struct.pack("=I", if_nametoindex("lan")) + bytes(148)
    return run(target, target.announce, frame, context)


def fitting(vip: Address, overhead: int) -> int:
    return 1500 - overhead - (40 if vip.version == 4 else 60)


@families
@overheads
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("flags", [SYN | ACK, SYN], ids=["syn-ack", "syn"])
def test_mss(target: TargetKernel, vip: Address, overhead: int, before: bytes, flags: int) -> None:
    target.set_overhead(overhead)
    most = fitting(vip, overhead)
    for value in (most + 1, 1460, 8960, 65535):
        frame = announced(before + mss(value), vip, flags)
        expected = ("mss_clamped", PASSED, announced(before + mss(most), vip, flags))
        assert announce(target, frame) == expected
    for value in (most, 536, 0):
        frame = announced(before + mss(value), vip, flags)
        assert announce(target, frame) == ("", PASSED, frame)


@families
@pytest.mark.parametrize(
    "options",
    {
        "none": b"",
        "no MSS": WINDOW_SCALE,
        "behind the end": END + b"\x02" + mss(1460),
        "of length 3": b"\x02\x03\x05\xb4",
        "behind one of length 0": b"\x03\x00" + mss(1460),
        "behind one of length 1": b"\x03\x01" + mss(1460),
        "cut off": WINDOW_SCALE + NOTHING + NOTHING * 2 + b"\x02\x04",
        "beyond the options": b"\x03\xff" + mss(1460),
    }.items(),
    ids=lambda item: item[0],
)
def test_no_mss_to_clamp(target: TargetKernel, vip: Address, options: tuple[str, bytes]) -> None:
    target.set_overhead(20)
    frame = announced(options[1], vip)
    assert announce(target, frame) == ("", PASSED, frame)


@families
def test_others_are_left_alone(target: TargetKernel, vip: Address) -> None:
    target.set_overhead(20)
    other = ELSEWHERE if vip.version == 4 else ELSEWHERE6
    frames = [
        announced(mss(1460), other),
        announced(mss(1460), vip, ACK),
        vlan(announced(mss(1460), vip)),
        in_outer(announced(mss(1460), vip), OUTER),
        announced(mss(1460), vip)[:-6],
    ]
    for frame in frames:
        assert announce(target, frame) == ("", PASSED, frame)
    target.set_overhead(0)
    frame = announced(mss(1460), vip)
    assert announce(target, frame) == ("", PASSED, frame)


# ---- what it is told ----


def test_roles_come_and_go(target: TargetKernel) -> None:
    frame = in_outer(segment(80), OUTER)
    assert run(target, target.decapsulate, frame)[0] == "decapsulated"
    target.set_distributors([OWN6])
    assert run(target, target.decapsulate, frame)[0] == "drop_source"
    target.set_distributors([OWN, OWN6, OUTER])
    target.set_vips([VIP6])
    assert run(target, target.decapsulate, frame)[0] == ""
    target.set_vips(VIPS)
    target.set_addresses([])
    assert run(target, target.decapsulate, frame)[0] == ""
    target.set_addresses([OUTER, OUTER6])
    target.set_distributors([OWN, OWN6])
    assert run(target, target.decapsulate, frame)[0] == "decapsulated"
    assert run(target, target.decapsulate, in_outer(segment(80), OUTER, OUTER))[0] == "drop_source"


def test_attached_and_taken_off(wire: Wire, pins: Path) -> None:
    target = TargetKernel.attach(wire.index, pins)
    assert target.attached()
    target.detach()
    target.close()
    assert list((pins / "links").iterdir()) == []
    assert not list(pins.glob("tunnel*"))
