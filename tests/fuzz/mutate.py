# SPDX-License-Identifier: Apache-2.0
"""Frames that no sender would send, made of such as one would."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

from tests.fuzz.corpus import LONGEST, PORTS
from tests.packet.frames import EXTENSIONS, MACS
from tests.packet.twin import is_run
from tests.packet.world import MAC
from tests.support.packets import chained, checksum

Mutation = Callable[[Random, bytearray], bytearray]
ODD_BYTES = [0, 1, 4, 5, 6, 7, 8, 17, 43, 44, 58, 59, 60, 0x0F, 0x45, 0x60, 0x7F, 0x80, 0xFF]
ODD_WORDS = [0, 1, 7, 8, 19, 20, 28, 40, 0x00FF, 0x1FFF, 0x2000, 0x3FFF, 0x7FFF, 0xFFFF]
IP = 14


def is_ipv4(frame: bytes | bytearray) -> bool:
    return frame[12:14] == b"\x08\x00" and len(frame) >= 34


def is_ipv6(frame: bytes | bytearray) -> bool:
    return frame[12:14] == b"\x86\xdd" and len(frame) >= 54


def payload_of(frame: bytes | bytearray) -> int:
    """Where the transport header is, without extension headers."""
    return IP + (max(20, (frame[IP] & 0x0F) * 4) if is_ipv4(frame) else 40)


def flip(random: Random, frame: bytearray) -> bytearray:
    for _ in range(random.choice([1, 1, 2, 4, 8])):
        frame[random.randrange(len(frame))] ^= 1 << random.randrange(8)
    return frame


def set_byte(random: Random, frame: bytearray) -> bytearray:
    frame[random.randrange(min(len(frame), 100))] = random.choice(ODD_BYTES)
    return frame


def cut_off(random: Random, frame: bytearray) -> bytearray:
    return frame[: random.randrange(14, len(frame) + 1)]


def pad(random: Random, frame: bytearray) -> bytearray:
    return frame + random.randbytes(random.choice([1, 6, 18, 60]))


def lie(random: Random, frame: bytearray) -> bytearray:
    """About a length: of the packet, of a header, of a datagram."""
    here = payload_of(frame)
    offset = random.choice([IP, IP + 2, IP + 4, IP + 6, here, here + 1, here + 4, here + 12])
    lies = [random.choice(ODD_WORDS), max(0, len(frame) - IP - random.randrange(-3, 60))]
    if offset + 2 <= len(frame):
        struct.pack_into("!H", frame, offset, random.choice(lies))
    return frame


def add_extensions(random: Random, frame: bytearray) -> bytearray:
    if not is_ipv6(frame):
        return frame
    chain = random.choices(EXTENSIONS, k=random.choice([1, 1, 2, 3, 7, 8, 9]))
    first, headers = chained(chain, frame[IP + 6])
    frame[IP + 6] = first
    return restate(frame[: IP + 40] + headers + frame[IP + 40 :])


def add_options(random: Random, frame: bytearray) -> bytearray:
    words = random.choice([1, 2, 10, 11])
    if not is_ipv4(frame) or (frame[IP] & 0x0F) + words > 15:
        return frame
    frame[IP] += words
    options = random.choice([b"\x01", b"\x00", b"\x07", b"\x83"]) * (4 * words)
    return restate(frame[: IP + 20] + options + frame[IP + 20 :])


def fragment(random: Random, frame: bytearray) -> bytearray:
    """Says that it is a part of a packet."""
    if is_ipv4(frame):
        bits = random.choice([0x2000, 0x2000, 6, 0x2006, 0x1FFF, 0x8000, 0x4000, 0xE000])
        struct.pack_into("!HH", frame, IP + 4, random.choice([1, 7]), bits)
    return frame


def readdress(random: Random, frame: bytearray) -> bytearray:
    """Other ports, and another client."""
    here = payload_of(frame)
    if is_ipv4(frame) or is_ipv6(frame):
        frame[IP + (15 if is_ipv4(frame) else 23)] = random.choice([7, 8, 9])
    if here + 4 <= len(frame):
        port = random.choice([*PORTS, 65535])
        struct.pack_into("!HH", frame, here, random.randrange(5000, 5004), port)
    return frame


def change_mac(random: Random, frame: bytearray) -> bytearray:
    start = random.choice([0, 6, 6, 6])
    frame[start : start + 6] = random.choice([MAC, *MACS])
    return frame


def change_transport(random: Random, frame: bytearray) -> bytearray:
    offset = IP + (9 if is_ipv4(frame) else 6)
    if offset < len(frame):
        frame[offset] = random.choice([0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60, 132])
    return frame


def restate(frame: bytearray) -> bytearray:
    """With the lengths that the packet has."""
    if is_ipv4(frame):
        struct.pack_into("!H", frame, IP + 2, len(frame) - IP)
    if is_ipv6(frame):
        struct.pack_into("!H", frame, IP + 4, len(frame) - IP - 40)
    return frame


def resum(frame: bytearray) -> bytearray:
    """With the sums that they should have: IPv4's, and ICMPv6's, or no neighbour is believed."""
    if is_ipv4(frame):
        end = payload_of(frame)
        frame[IP + 10 : IP + 12] = bytes(2)
        struct.pack_into("!H", frame, IP + 10, checksum(bytes(frame[IP:end])))
    if is_ipv6(frame) and frame[IP + 6] == 58 and len(frame) >= 58:
        body = len(frame) - IP - 40
        frame[56:58] = bytes(2)
        pseudo = bytes(frame[22:54]) + struct.pack("!II", body, 58)
        struct.pack_into("!H", frame, 56, checksum(pseudo + bytes(frame[54:])))
    return frame


MUTATIONS: Sequence[Mutation] = [
    flip,
    set_byte,
    cut_off,
    pad,
    lie,
    add_extensions,
    add_options,
    fragment,
    readdress,
    readdress,
    change_mac,
    change_transport,
]


class Mutator:
    def __init__(
        self,
        random: Random,
        frames: Sequence[bytes],
        mutations: Sequence[Mutation] = MUTATIONS,
    ) -> None:
        self._random = random
        self._frames = frames
        self._mutations = mutations

    def frame(self) -> bytes:
        """One that BPF_PROG_RUN takes; now and then as sound as it was."""
        while True:
            frame = self._mutated()
            if is_run(frame) and len(frame) <= LONGEST:
                return frame

    def _mutated(self) -> bytes:
        random = self._random
        frame = bytearray(random.choice(self._frames))
        if random.random() < 0.05:
            frame = self._spliced(frame)
        for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
            frame = random.choice(self._mutations)(random, frame)
        if random.random() < 0.3:
            frame = restate(frame)
        return bytes(resum(frame) if random.random() < 0.5 else frame)

    def _spliced(self, frame: bytearray) -> bytearray:
        """The head of one and the tail of another."""
        tail = self._random.choice(self._frames)
        cut = self._random.randrange(14, min(len(frame), len(tail)) + 1)
        return frame[:cut] + tail[cut:]
