# SPDX-License-Identifier: Apache-2.0
"""What listens now: a raw dump of sock_diag(7), quick enough for every host (4.5 ms for 3,004).

The sockets are those of the calling thread's network namespace.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from anyport.errors import KernelError
from anyport.kernel.abi import unpack_address
from anyport.model import Protocol, Socket
from anyport.model.definition import Address

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST_DUMP = 0x301
_INET_DIAG_SKV6ONLY = 11
_TCP_CLOSE, _TCP_LISTEN = 7, 10  # enum in <netinet/tcp.h>; an unconnected UDP socket is CLOSE
_CONNECTED = sum(
    1 << state for state in (1, 4, 5, 8, 9)
)  # ESTABLISHED, FIN_WAITs, CLOSE_WAIT, LAST_ACK
_RECEIVE = 1 << 18

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48s")  # struct inet_diag_req_v2, its address part zero
_MESSAGE = struct.Struct("=BBxxHxx16s16x4xQ4x4x4xII")  # struct inet_diag_msg; see _parse
_ENDS = struct.Struct("=4xHH16s16s")  # of it, the ports and addresses of both ends
_MESSAGE_SIZE = 72
_MAPPED = bytes(10) + b"\xff\xff"
_address = lru_cache(maxsize=4096)(unpack_address)  # most sockets share a few

_STATES = {
    Protocol.TCP: (socket.IPPROTO_TCP, 1 << _TCP_LISTEN),
    Protocol.UDP: (socket.IPPROTO_UDP, 1 << _TCP_CLOSE),
}


class Dumped(NamedTuple):
    """One socket of a dump; `address` as in the ABI (16 bytes, IPv4 mapped), `inode` of sockfs."""

    cookie: int
    address: bytes
    protocol: Protocol
    port: int
    uid: int
    inode: int
    v6only: bool

    @property
    def bound_to(self) -> Address:
        return _address(self.address)

    def as_socket(self, pid: int = 0, process: str = "") -> Socket:
        return Socket(
            cookie=self.cookie,
            address=self.bound_to,
            protocol=self.protocol,
            port=self.port,
            uid=self.uid,
            pid=pid,
            process=process,
            takes_ipv4=not self.v6only,
        )


def dump() -> list[Dumped]:
    """Listening TCP sockets and bound, unconnected UDP sockets, of both families.

    A UDP socket that only sent is among them; nothing in the dump tells it
    apart. A socket may be missing if others came or went meanwhile (the
    kernel's cursor is a count): ask twice before taking one for closed.
    Raises KernelError.
    """
    with _connect() as netlink:
        return [
            entry
            for protocol in Protocol
            for family in (socket.AF_INET, socket.AF_INET6)
            for entry in _dump(netlink, family, protocol)
        ]


class Connected(NamedTuple):
    """A TCP connection of this host, accepted or opened."""

    client: Address
    client_port: int
    vip: Address
    port: int


def connections(vips: Collection[Address]) -> list[Connected]:
    """The TCP connections whose end here is one of `vips`. Raises KernelError."""
    with _connect() as netlink:
        found = [
            _connected(data, start)
            for family in (socket.AF_INET, socket.AF_INET6)
            for data, start, _ in _messages(netlink, family, socket.IPPROTO_TCP, _CONNECTED)
        ]
    return [connection for connection in found if connection.vip in vips]


def _connected(data: bytes, start: int) -> Connected:
    family = data[start]
    port, client_port, source, destination = _ENDS.unpack_from(data, start)
    if family == socket.AF_INET:
        source, destination = _MAPPED + source[:4], _MAPPED + destination[:4]
    return Connected(
        unpack_address(destination),
        socket.ntohs(client_port),
        unpack_address(source),
        socket.ntohs(port),
    )


def processes_by_inode(inodes: Iterable[int]) -> dict[int, tuple[int, str]]:
    """Socket inode → (pid, command) of one process that holds it; absent: none found.

    Scans /proc/*/fd once, so ask for many at a time.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    found: dict[int, tuple[int, str]] = {}
    for pid in _pids() if wanted else ():
        held = {wanted[link] for link in _links(pid) if link in wanted} - found.keys()
        if held:
            found.update(dict.fromkeys(held, (pid, _command(pid))))
    return found


def _connect() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    return socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG)


def _dump(netlink: socket.socket, family: int, protocol: Protocol) -> Iterator[Dumped]:
    number, states = _STATES[protocol]
    for message in _messages(netlink, family, number, states):
        entry = _parse(*message, protocol)
        if entry.port:
            yield entry


def _messages(
    netlink: socket.socket, family: int, number: int, states: int
) -> Iterator[tuple[bytes, int, int]]:
    """Each struct inet_diag_msg with its attributes: data[start:end]."""
    body = _REQUEST.pack(family, number, 0, states, b"")
    length = _HEADER.size + len(body)
    netlink.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0) + body)
    while True:
        data = netlink.recv(_RECEIVE)
        offset = 0
        while offset < len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", data, offset + _HEADER.size)
                raise KernelError("dump of sockets (sock_diag)", -code)
            yield data, offset + _HEADER.size, offset + length
            offset += (length + 3) & ~3


def _parse(data: bytes, start: int, end: int, protocol: Protocol) -> Dumped:
    family, _, port, source, cookie, uid, inode = _MESSAGE.unpack_from(data, start)
    if family == socket.AF_INET:
        source = _MAPPED + source[:4]
    v6only = family == socket.AF_INET6 and _is_v6only(data, start + _MESSAGE_SIZE, end)
    return Dumped(cookie, source, protocol, socket.ntohs(port), uid, inode, v6only)


def _is_v6only(data: bytes, start: int, end: int) -> bool:
    while start + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, start)
        if kind == _INET_DIAG_SKV6ONLY:
            return data[start + 4] != 0
        start += max((length + 3) & ~3, 4)
    return False


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _links(pid: int) -> Iterator[str]:
    """What each descriptor of a process is; nothing for what is gone meanwhile."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        with suppress(OSError):
            yield os.readlink(f"/proc/{pid}/fd/{name}")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""
