# SPDX-License-Identifier: Apache-2.0
"""IPv6 extension headers: RFC 8200 4."""

from __future__ import annotations

from dataclasses import replace

from anyport.decide.rows import Family
from tests.packet.reference.decision import dropped
from tests.packet.reference.ip import WHOLE, Fragment, Packet

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
KNOWN = {HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS}
MOST = 8
"""bpf/README.md, 4: with more, the packet is dropped (RFC 8504 5.3 asks for a limit)."""


class CutOffError(Exception):
    """A header does not end within the packet; or there is a fragment within a fragment."""


class TooManyError(Exception):
    """Extension headers."""


def unwrapped(packet: Packet) -> Packet:
    """Without the extension headers of IPv6. The options of IPv4 are skipped already."""
    if packet.family is Family.IPV4:
        return packet
    try:
        protocol, payload, fragment = walk(packet.protocol, packet.payload)
    except CutOffError:
        raise dropped("drop_malformed") from None
    except TooManyError:
        raise dropped("drop_headers") from None
    return replace(packet, protocol=protocol, payload=payload, fragment=fragment)


def walk(type: int, data: bytes) -> tuple[int, bytes, Fragment]:
    """From the first header to what is none, or cannot be passed: its type, and all from there.

    A fragment that is not the first has no more headers, whatever it says comes next.
    """
    fragment = WHOLE
    for position in range(MOST + 1):
        if type not in KNOWN or fragment.offset:
            return type, data, fragment
        if position == MOST:
            raise TooManyError
        if len(data) < 8:
            raise CutOffError
        if _is_for_the_stack(type, data, position):
            return type, data, fragment
        if type == FRAGMENT:
            if fragment.is_part:
                raise CutOffError
            fragment = _fragment(data)
        type, data = data[0], _after(type, data)
    raise AssertionError


def _is_for_the_stack(type: int, data: bytes, position: int) -> bool:
    """Hop-by-hop options not at the front (4.1); a routing header not done with (4.4)."""
    segments_left = data[3]
    return (type == HOP_BY_HOP and position > 0) or (type == ROUTING and segments_left > 0)


def _fragment(data: bytes) -> Fragment:
    """RFC 8200 4.5. Neither an offset nor more to come: whole all the same (RFC 6946)."""
    offset = int.from_bytes(data[2:4])
    return Fragment(offset >> 3, bool(offset & 1), int.from_bytes(data[4:8]))


def _after(type: int, data: bytes) -> bytes:
    length = 8 if type == FRAGMENT else 8 + 8 * data[1]
    if length > len(data):
        raise CutOffError
    return data[length:]
