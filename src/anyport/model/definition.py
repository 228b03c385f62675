# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from anyport.model.protocol import Protocol

Range = tuple[int, int]


class Method(enum.Enum):
    """Workload distribution method (R6)."""

    HASH = "hash"
    ROUND_ROBIN = "round-robin"


@dataclass(frozen=True, slots=True)
class PortSet:
    """Enumerated ports: per protocol sorted, disjoint, inclusive ranges of 1..65535.

    Build one with `PortSet.of` or `PortSet.parse`; both merge and sort.
    """

    tcp: tuple[Range, ...] = ()
    udp: tuple[Range, ...] = ()

    @classmethod
    def of(cls, tcp: Iterable[Range] = (), udp: Iterable[Range] = ()) -> PortSet:
        return cls(_merge(tcp), _merge(udp))

    @classmethod
    def parse(cls, text: str) -> PortSet:
        """`80,443,8000-8100/tcp,53/udp`; a port without a protocol means both TCP and UDP.

        Raises ValueError with a line that names the part and what is allowed.
        """
        ranges: dict[Protocol, list[Range]] = {Protocol.TCP: [], Protocol.UDP: []}
        for part in text.split(","):
            ports, slash, word = part.strip().partition("/")
            protocols = [Protocol.parse(word)] if slash else list(Protocol)
            for protocol in protocols:
                ranges[protocol].append(_parse_range(ports, part.strip()))
        return cls.of(ranges[Protocol.TCP], ranges[Protocol.UDP])

    def ranges(self, protocol: Protocol) -> tuple[Range, ...]:
        return self.tcp if protocol is Protocol.TCP else self.udp

    def contains(self, protocol: Protocol, port: int) -> bool:
        """Asked per socket and port: a walk would make thousands of ranges cost seconds."""
        ranges = self.ranges(protocol)
        place = bisect_right(ranges, port, key=_first_port) - 1
        return place >= 0 and port <= ranges[place][1]

    def overlaps(self, first: int, last: int) -> bool:
        """Whether a port of first..last is enumerated, for either protocol."""
        return any(a <= last and first <= b for a, b in (*self.tcp, *self.udp))

    def __str__(self) -> str:
        """The form `parse` takes; ranges of both protocols are written once, without one."""
        both = set(self.tcp) & set(self.udp)
        parts = [(r, "") for r in both]
        for protocol in Protocol:
            parts += [(r, f"/{protocol.word}") for r in self.ranges(protocol) if r not in both]
        return ",".join(_range_word(r) + suffix for r, suffix in sorted(parts))


class _Any(enum.Enum):
    ANY = "any"

    def __str__(self) -> str:
        return "any"


ANY = _Any.ANY
Ports = _Any | PortSet
Address = IPv4Address | IPv6Address


UDP_IDLE_SECONDS = 60
"""Of a definition that does not say; stored definitions rely on it: never another number."""

MAX_UDP_IDLE_SECONDS = 86400

MAX_DEFINITION_SIZE = 32768
"""Of `Definition.size`. A registry value may be 65,536 bytes long, and the one
that publishes a definition (R1) holds more than the definition."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A VIP and how it is distributed. `hosts` None: every host of the cluster.

    `udp_idle`: a UDP flow that was silent for more than so many seconds may
    move to another target.
    """

    vip: Address
    ports: Ports = ANY
    method: Method = Method.HASH
    hosts: frozenset[str] | None = None
    udp_idle: int = UDP_IDLE_SECONDS

    @property
    def enumerated(self) -> bool:
        return self.ports is not ANY

    @property
    def size(self) -> int:
        """Characters that its ports and hosts take when they are written out."""
        return len(str(self.ports)) + sum(len(name) + 3 for name in self.hosts or ())

    def enumerates(self, protocol: Protocol, port: int) -> bool:
        return isinstance(self.ports, PortSet) and self.ports.contains(protocol, port)

    def allows(self, host: str) -> bool:
        return self.hosts is None or host in self.hosts


def parse_ports(text: str) -> Ports:
    """`any`, or what PortSet.parse takes. Raises ValueError."""
    return ANY if text == "any" else PortSet.parse(text)


def _parse_range(text: str, part: str) -> Range:
    first_word, dash, last_word = text.partition("-")
    allowed = "allowed are `any` or ports 1-65535 as 80,8000-8100/tcp,53/udp"
    if not first_word.isascii() or not first_word.isdigit():
        raise ValueError(f"ports {part!r}: {allowed}")
    if dash and not (last_word.isascii() and last_word.isdigit()):
        raise ValueError(f"ports {part!r}: {allowed}")
    first = int(first_word)
    last = int(last_word) if dash else first
    if not 1 <= first <= 65535 or not 1 <= last <= 65535:
        raise ValueError(f"ports {part!r}: {allowed}")
    if last < first:
        raise ValueError(f"ports {part!r}: the range is backwards; did you mean {last}-{first}?")
    return first, last


def _merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def _first_port(r: Range) -> int:
    return r[0]


def _range_word(r: Range) -> str:
    return str(r[0]) if r[0] == r[1] else f"{r[0]}-{r[1]}"


def iterate(ranges: Iterable[Range]) -> Iterator[int]:
    for first, last in ranges:
        yield from range(first, last + 1)
