# SPDX-License-Identifier: Apache-2.0
"""bpf/abi.h in Python: the same structs, enums and numbers; tests/abi compares them through BTF.

A struct is named as in C, in camel case. An enum too, and its members without
the prefix they share: ROUTE_UNIQUE is RouteKind.UNIQUE. The numbers that say how
many members an enum has are left out: that is its length.
"""

from __future__ import annotations

import enum
from ctypes import LittleEndianStructure, c_char, c_uint8, c_uint16, c_uint32, c_uint64
from ipaddress import IPv4Address, IPv6Address

from anyport.decide.rows import (
    MAX_HOSTS,
    MAX_SELECTIONS,
    MAX_VIPS,
    SELECTION_SLOTS,
    Family,
    RouteKind,
)
from anyport.decide.rows import Path as PathKind
from anyport.model import Protocol

__all__ = [
    "BUCKET_WAYS",
    "COMM_LENGTH",
    "COUNTED_ROWS",
    "COUNTED_SLOTS",
    "GATHERED_BYTES",
    "HANDED_ON",
    "MAX_HOSTS",
    "MAX_SELECTIONS",
    "MAX_VIPS",
    "NO_ROW",
    "NO_SLOT",
    "PAGE_BUCKETS",
    "PAST_SLOT",
    "PEERS_A_ROW",
    "PEER_ROWS",
    "PORTS",
    "PORT_WORDS",
    "SEEN_BITS",
    "SELECTION_SLOTS",
    "TICK_SHIFT",
    "TRIAL_MARK",
    "TUNNEL_ROWS",
    "WORD_PROTOCOL",
    "WORD_TAG",
    "WORD_USED",
    "WORD_VIP",
    "Address",
    "Bucket",
    "Connection",
    "ConnectionState",
    "Counter",
    "Counters",
    "Definition",
    "DefinitionFlags",
    "Endpoint",
    "EnterRequest",
    "Event",
    "EventKind",
    "Family",
    "Fence",
    "Flow",
    "Gathered",
    "HandedOn",
    "HandedPort",
    "Hop",
    "Host",
    "LearntMtu",
    "ListenCounter",
    "ListeningSocket",
    "OwnIpv4",
    "OwnIpv6",
    "PathKind",
    "PeerRow",
    "PortWord",
    "Protocol",
    "ReconcileOperation",
    "ReconcileRequest",
    "ReconcileResult",
    "Route",
    "RouteKind",
    "Selection",
    "SelectionMethod",
    "Settings",
    "SocketFlags",
    "TableKey",
    "TunnelCounter",
    "TunnelRole",
    "TunnelSettings",
    "UpkeepRequest",
    "Verdict",
    "Vip",
    "VipTable",
    "pack_address",
    "unpack_address",
]

PORTS = 65536
PORT_WORDS = PORTS // 64
PEER_ROWS = 256
PEERS_A_ROW = 4
BUCKET_WAYS = 4
PAGE_BUCKETS = 32
WORD_VIP = 6
WORD_PROTOCOL = 10
WORD_USED = 1 << 11
WORD_TAG = 0xFFFFFFFFFFFFF000
SEEN_BITS = 30
TICK_SHIFT = 27
GATHERED_BYTES = 48000
TUNNEL_ROWS = 512
COMM_LENGTH = 16
NO_SLOT = MAX_HOSTS
NO_ROW = MAX_VIPS
PAST_SLOT = MAX_HOSTS + 1
COUNTED_SLOTS = MAX_HOSTS + 2
COUNTED_ROWS = MAX_VIPS + 1
TRIAL_MARK = 0x616E7970
HANDED_ON = 0x616E7970


def pack_address(address: IPv4Address | IPv6Address) -> bytes:
    """16 bytes in network order, IPv4 as v4-mapped IPv6 (RFC 4291 2.5.5.2)."""
    if isinstance(address, IPv4Address):
        return bytes(10) + b"\xff\xff" + address.packed
    return address.packed


def unpack_address(packed: bytes) -> IPv4Address | IPv6Address:
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


class Address(LittleEndianStructure):
    """`words` as bytes: they are in network order."""

    _fields_ = (("words", c_uint8 * 16),)

    @classmethod
    def of(cls, address: IPv4Address | IPv6Address) -> Address:
        return cls.from_buffer_copy(pack_address(address))

    def unpack(self) -> IPv4Address | IPv6Address:
        return unpack_address(bytes(self))


# ---- listen.bpf.c ----


class DefinitionFlags(enum.IntFlag):
    ENUMERATED = 1


class Definition(LittleEndianStructure):
    _fields_ = (("index", c_uint32), ("flags", c_uint32))


class PortWord(LittleEndianStructure):
    _fields_ = (("enumerated", c_uint64), ("leased", c_uint64), ("own", c_uint64))


class SocketFlags(enum.IntFlag):
    V6ONLY = 1


class ListeningSocket(LittleEndianStructure):
    _fields_ = (
        ("address", Address),
        ("uid", c_uint32),
        ("pid", c_uint32),
        ("port", c_uint16),
        ("protocol", c_uint8),
        ("flags", c_uint8),
        ("comm", c_char * COMM_LENGTH),
    )


class Endpoint(LittleEndianStructure):
    _fields_ = (
        ("address", Address),
        ("port", c_uint16),
        ("protocol", c_uint8),
        ("pad", c_uint8),
    )


class HandedPort(LittleEndianStructure):
    _fields_ = (
        ("vip", Address),
        ("since_ns", c_uint64),
        ("port", c_uint16),
        ("protocol", c_uint8),
        ("bound", c_uint8),
        ("pad", c_uint32),
    )


class Settings(LittleEndianStructure):
    _fields_ = (("handout_deadline_ns", c_uint64),)


class EventKind(enum.IntEnum):
    OPENED = 1
    CLOSED = 2
    HANDED = 3
    FREED = 4
    EXHAUSTED = 5


class Event(LittleEndianStructure):
    _fields_ = (
        ("cookie", c_uint64),
        ("kind", c_uint32),
        ("pad", c_uint32),
        ("socket", ListeningSocket),
    )


class ReconcileOperation(enum.IntEnum):
    OPENED = 1
    CLOSED = 2
    FREED = 3


class ReconcileResult(enum.IntEnum):
    UNCHANGED = 0
    RECORDED = 1
    REMOVED = 2


class ReconcileRequest(LittleEndianStructure):
    _fields_ = (
        ("cookie", c_uint64),
        ("operation", c_uint32),
        ("pad", c_uint32),
        ("socket", ListeningSocket),
    )


class ListenCounter(enum.IntEnum):
    OPENED = 0
    CLOSED = 1
    EVENTS_LOST = 2
    SOCKETS_FULL = 3
    PORTS_HANDED = 4
    PORTS_EXHAUSTED = 5
    BINDS_REFUSED = 6
    LEAKS_REFUSED = 7


# ---- distribute.bpf.c ----


class Vip(LittleEndianStructure):
    _fields_ = (
        ("address", Address),
        ("index", c_uint32),
        ("mac", c_uint8 * 6),
        ("absent", c_uint16),
        ("gathering_until", c_uint32),
        ("udp_idle_ns", c_uint64),
    )


class VipTable(LittleEndianStructure):
    _fields_ = (
        ("used", c_uint32),
        ("pad", c_uint32),
        ("rows", Vip * MAX_VIPS),
        ("known", Address * MAX_VIPS),
    )


class Fence(LittleEndianStructure):
    _fields_ = (("mac", c_uint8 * 6), ("raised", c_uint16))


class PeerRow(LittleEndianStructure):
    _fields_ = (("peers", c_uint64 * PEERS_A_ROW),)


class Route(LittleEndianStructure):
    _fields_ = (("kind", c_uint32), ("target", c_uint32), ("hosts", c_uint64))


class SelectionMethod(enum.IntEnum):
    HASH = 0
    ROUND_ROBIN = 1


class Selection(LittleEndianStructure):
    _fields_ = (
        ("method", c_uint32),
        ("size", c_uint32),
        ("next", c_uint32),
        ("pad", c_uint32),
        ("slots", c_uint16 * SELECTION_SLOTS),
        ("pad2", c_uint16 * 3),
    )


class Hop(LittleEndianStructure):
    _fields_ = (
        ("address", Address),
        ("path", c_uint32),
        ("ifindex", c_uint32),
        ("source", Address),
        ("mtu", c_uint32),
        ("pad", c_uint32),
    )


class Host(LittleEndianStructure):
    _fields_ = (
        ("hops", Hop * len(Family)),
        ("weight", c_uint32),
        ("mac", c_uint8 * 6),
        ("pad", c_uint16),
    )


class LearntMtu(LittleEndianStructure):
    _fields_ = (
        ("destination", Address),
        ("until_ns", c_uint64),
        ("mtu", c_uint32),
        ("pad", c_uint32),
    )


class Flow(LittleEndianStructure):
    _fields_ = (
        ("client", Address),
        ("vip", Address),
        ("client_port", c_uint16),
        ("port", c_uint16),
        ("protocol", c_uint8),
        ("pad", c_uint8 * 3),
    )


class ConnectionState(enum.IntEnum):
    NEW = 0
    ESTABLISHED = 1
    CLOSING = 2
    RESET = 3


class Connection(LittleEndianStructure):
    _fields_ = (
        ("word", c_uint64),
        ("life", c_uint32),
        ("client_port", c_uint16),
        ("port", c_uint16),
        ("client", Address),
    )


class Bucket(LittleEndianStructure):
    _fields_ = (("ways", Connection * BUCKET_WAYS),)


class UpkeepRequest(LittleEndianStructure):
    _fields_ = (
        ("slots", c_uint64),
        ("rows", c_uint32),
        ("first", c_uint32),
        ("count", c_uint32),
        ("done", c_uint32),
    )


class OwnIpv4(LittleEndianStructure):
    """All in network order; so is OwnIpv6."""

    _fields_ = (("client", c_uint32), ("client_port", c_uint16), ("port", c_uint16))


class OwnIpv6(LittleEndianStructure):
    _fields_ = (("client", Address), ("client_port", c_uint16), ("port", c_uint16))


class Gathered(LittleEndianStructure):
    _fields_ = (("rows", c_uint8 * GATHERED_BYTES),)


class EnterRequest(LittleEndianStructure):
    _fields_ = (
        ("row", c_uint32),
        ("slot", c_uint32),
        ("family", c_uint32),
        ("count", c_uint32),
        ("others", c_uint32),
        ("no_room", c_uint32),
    )


class TableKey(LittleEndianStructure):
    _fields_ = (("words", c_uint64 * 6),)


class HandedOn(LittleEndianStructure):
    _fields_ = (
        ("magic", c_uint32),
        ("verdict", c_uint32),
        ("slot", c_uint32),
        ("pad", c_uint32),
    )


class Verdict(enum.IntEnum):
    NOT_OURS = 0
    ARP_REPLIED = 1
    ARP_IGNORED = 2
    NDP_REPLIED = 3
    NDP_IGNORED = 4
    DISTRIBUTED = 5
    FENCED = 6
    ESTABLISHED = 7
    UNIQUE = 8
    SELECTED = 9
    FALLBACK = 10
    HASHED = 11
    TABLE_FULL = 12
    ICMP_ERROR = 13
    FRAGMENT = 14
    FRAGMENT_HELD = 15
    FRAGMENTS_RELEASED = 16
    MTU_LEARNT = 17
    TOO_BIG = 18
    NO_ROUTE = 19
    OTHER_PROTOCOL = 20
    DROP_FRAGMENT = 21
    DROP_MALFORMED = 22
    DROP_HEADERS = 23
    DROP_ICMP = 24
    DROP_TTL = 25
    DROP_TOO_BIG = 26
    DROP_ENCAPSULATION = 27
    DROP_NO_PATH = 28
    DROP_TABLE = 29
    DROP_FENCED = 30
    DROP_GATHERING = 31
    ABSENT = 32


class Counter(LittleEndianStructure):
    _fields_ = (("packets", c_uint64), ("bytes", c_uint64))


class Counters(LittleEndianStructure):
    _fields_ = (("by_verdict", Counter * len(Verdict)),)


# ---- target.bpf.c ----


class TunnelRole(enum.IntFlag):
    OWN = 1
    DISTRIBUTOR = 2
    VIP = 4


class TunnelSettings(LittleEndianStructure):
    _fields_ = (("overhead", c_uint32), ("pad", c_uint32))


class TunnelCounter(enum.IntEnum):
    DECAPSULATED = 0
    MSS_CLAMPED = 1
    DROP_SOURCE = 2
    DROP_MALFORMED = 3
    DROP_FRAGMENT = 4
    DROP_ECN = 5
    DROP_ROOM = 6
