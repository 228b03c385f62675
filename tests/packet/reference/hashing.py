# SPDX-License-Identifier: Apache-2.0
"""A flow's number, and what is chosen by it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

from anyport.model.definition import Address
from tests.packet.reference.transport import Flow

_WORD = 2**64 - 1


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _WORD


def _round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a = (a + b) & _WORD
    b = _rotate(b, 13) ^ a
    a = _rotate(a, 32)
    c = (c + d) & _WORD
    d = _rotate(d, 16) ^ c
    a = (a + d) & _WORD
    d = _rotate(d, 21) ^ a
    c = (c + b) & _WORD
    b = _rotate(b, 17) ^ c
    c = _rotate(c, 32)
    return a, b, c, d


def siphash13(key: int, message: bytes) -> int:
    """Aumasson, Bernstein: SipHash (2012), 2.1-2.4, with 1 and 3 rounds. `key`: 128 bits."""
    key0, key1 = key & _WORD, key >> 64
    a, b = key0 ^ 0x736F6D6570736575, key1 ^ 0x646F72616E646F6D
    c, d = key0 ^ 0x6C7967656E657261, key1 ^ 0x7465646279746573
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        a, b, c, d = _round(a, b, c, d ^ word)
        a ^= word
    c ^= 0xFF
    for _ in range(3):
        a, b, c, d = _round(a, b, c, d)
    return a ^ b ^ c ^ d


def packed(address: Address) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d."""
    mapped = bytes(10) + b"\xff\xff" if isinstance(address, IPv4Address) else b""
    return mapped + address.packed


def hash_of(key: int, flow: Flow) -> int:
    """Of client, ports and protocol, 21 bytes; the VIP is not in it."""
    tail = struct.pack("<HHB", flow.client_port, flow.port, flow.protocol)
    return siphash13(key, packed(flow.client) + tail)


def mixed(x: int) -> int:
    """The finalizer of MurmurHash3, fmix64."""
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & _WORD
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & _WORD
    return x ^ x >> 33


def minus_log2(draw: int) -> int:
    """-log2(draw / 2**32) in 2**-24ths, as whole numbers: what BPF has instead of a logarithm.

    Between two powers of two a straight line, bent by 88/256 of x(1-x).
    """
    x = draw | 1
    zeros = 32 - x.bit_length()
    one = 1 << 24
    part = ((x << zeros) - (1 << 31)) >> 7
    part += ((part * (one - part) >> 24) * 88) >> 8
    return (zeros + 1) * one - part


def by_weight(weights: Iterable[tuple[int, int]], number: int) -> int | None:
    """Weighted rendezvous (Thaler, Ravishankar 1998): the least -log(draw) / weight.

    `weights`: (slot, weight). A host of weight 0 gets what nobody else takes.
    """

    def cost(slot: int, weight: int) -> tuple[bool, int]:
        draw = mixed((number + slot) & _WORD) % 2**32
        return not weight, weight and (minus_log2(draw) << 16) // weight

    costs = [(cost(slot, weight), slot) for slot, weight in weights]
    return min(costs)[1] if costs else None
