# SPDX-License-Identifier: Apache-2.0
"""What listen.bpf.c tells, as typed values: the `events` ring buffer and the maps' entries."""

from __future__ import annotations

from dataclasses import dataclass

from anyport.kernel import abi
from anyport.model import Protocol, Socket
from anyport.model.definition import Address


@dataclass(frozen=True, slots=True)
class Opened:
    """A socket that some definition may concern began to listen; decide.counts decides."""

    socket: Socket


@dataclass(frozen=True, slots=True)
class Closed:
    cookie: int


@dataclass(frozen=True, slots=True)
class Handed:
    """bind(VIP, 0) was given `port` of an own block; the bind itself may still fail (R7)."""

    cookie: int
    vip: Address
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class Freed:
    """The socket that held a handed port is gone, or its bind failed: the port rests now."""

    cookie: int
    vip: Address
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """bind(VIP, 0) got EADDRINUSE: no free port, or the deadline has passed. Who asked."""

    vip: Address
    protocol: Protocol
    uid: int
    pid: int
    process: str


Event = Opened | Closed | Handed | Freed | Exhausted


@dataclass(frozen=True, slots=True)
class Events:
    """In the order of the kernel's map. `lost`: some are missing: reconcile, then ask for all."""

    events: list[Event]
    lost: bool


@dataclass(frozen=True, slots=True)
class HandedPort:
    """An entry of `handed`. `since_ns`: CLOCK_BOOTTIME. `bound` False: the bind failed so far."""

    cookie: int
    vip: Address
    protocol: Protocol
    port: int
    since_ns: int
    bound: bool


def parse_event(record: bytes) -> Event:
    raw = abi.Event.from_buffer_copy(record)
    where = raw.socket.address.unpack(), Protocol(raw.socket.protocol)
    match abi.EventKind(raw.kind):
        case abi.EventKind.OPENED:
            return Opened(unpack_socket(raw.cookie, raw.socket))
        case abi.EventKind.CLOSED:
            return Closed(raw.cookie)
        case abi.EventKind.HANDED:
            return Handed(raw.cookie, *where, raw.socket.port)
        case abi.EventKind.FREED:
            return Freed(raw.cookie, *where, raw.socket.port)
        case abi.EventKind.EXHAUSTED:
            return Exhausted(*where, raw.socket.uid, raw.socket.pid, _process(raw.socket))


def unpack_socket(cookie: int, raw: abi.ListeningSocket) -> Socket:
    return Socket(
        cookie=cookie,
        address=raw.address.unpack(),
        protocol=Protocol(raw.protocol),
        port=raw.port,
        uid=raw.uid,
        pid=raw.pid,
        process=_process(raw),
        takes_ipv4=not raw.flags & abi.SocketFlags.V6ONLY,
    )


def pack_socket(socket: Socket) -> abi.ListeningSocket:
    return abi.ListeningSocket(
        address=abi.Address.of(socket.address),
        uid=socket.uid,
        pid=socket.pid,
        port=socket.port,
        protocol=socket.protocol,
        flags=0 if socket.takes_ipv4 else abi.SocketFlags.V6ONLY,
        comm=socket.process.encode()[: abi.COMM_LENGTH - 1],
    )


def unpack_handed(cookie: int, raw: abi.HandedPort) -> HandedPort:
    return HandedPort(
        cookie=cookie,
        vip=raw.vip.unpack(),
        protocol=Protocol(raw.protocol),
        port=raw.port,
        since_ns=raw.since_ns,
        bound=bool(raw.bound),
    )


def _process(raw: abi.ListeningSocket) -> str:
    return bytes(raw.comm).decode(errors="replace")
