# SPDX-License-Identifier: Apache-2.0
"""Where the other fragments of a packet go: docs/adr/0011. The model has room for all places."""

from __future__ import annotations

from dataclasses import dataclass, field

from anyport.decide.rows import Family
from anyport.model.definition import Address
from tests.packet.reference.connections import Clock
from tests.packet.reference.decision import Action, Decision, dropped, passed
from tests.packet.reference.ip import Packet

SILENCE = 2.0
"""Seconds after which the identification is another packet's."""
LONGEST_HELD = 2048
MOST_HELD = 64
"""Of one packet."""

Key = tuple[Address, Address, int, int]
LOCAL = -1


@dataclass
class Place:
    seen: float
    slot: int | None = None
    """LOCAL, or a host's; None: the first fragment has not come yet."""
    waiting: list[bytes] = field(default_factory=list)
    """The newest last."""


def key_of(packet: Packet) -> Key:
    """RFC 791 2.3; RFC 8200 4.5, where the protocol of the first alone counts."""
    protocol = packet.protocol if packet.family is Family.IPV4 else 0
    return packet.source, packet.destination, packet.fragment.identification, protocol


class Fragments:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._places: dict[Key, Place] = {}

    def follow(self, packet: Packet, frame: bytes) -> int:
        """The slot of the first; raises Settled if it is the local stack's, or has not come."""
        place = self._place(packet)
        if place.slot is None:
            if len(frame) > LONGEST_HELD:
                raise dropped("drop_fragment")
            place.waiting.append(frame)
            raise dropped("fragment_held")
        if place.slot == LOCAL:
            raise passed("fragment")
        return place.slot

    def place_first(self, packet: Packet, frame: bytes, decision: Decision) -> Decision:
        """The first is decided: the others follow it, those that wait behind it."""
        if decision.action is Action.DROP:
            return decision
        place = self._place(packet)
        place.slot = LOCAL if decision.action is Action.PASS else decision.slot
        if not place.waiting:
            return decision
        released = (frame, *place.waiting[: -MOST_HELD - 1 : -1])
        place.waiting = []
        return Decision("fragments_released", Action.RELEASE, released=released)

    def forget(self) -> None:
        self._places.clear()

    def age(self, seconds: float) -> None:
        for place in self._places.values():
            place.seen -= seconds

    def _place(self, packet: Packet) -> Place:
        key, now = key_of(packet), self._clock()
        place = self._places.get(key)
        if place is None or now - place.seen > SILENCE:
            place = self._places[key] = Place(now)
        place.seen = now
        return place
