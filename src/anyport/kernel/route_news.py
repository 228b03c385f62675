# SPDX-License-Identifier: Apache-2.0
"""When routes are to be looked up again: the kernel's multicasts, and routers' complaints."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from anyport.errors import KernelError
from anyport.model.definition import Address

# <linux/rtnetlink.h>: a bit a group
_GROUPS = sum(
    1 << group - 1
    for group in (
        1,  # RTNLGRP_LINK
        5,  # RTNLGRP_IPV4_IFADDR
        7,  # RTNLGRP_IPV4_ROUTE
        8,  # RTNLGRP_IPV4_RULE
        9,  # RTNLGRP_IPV6_IFADDR
        11,  # RTNLGRP_IPV6_ROUTE
        19,  # RTNLGRP_IPV6_RULE
    )
)
_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # <linux/in.h>, <linux/in6.h>
_INNER = (4, 41)  # IPPROTO_IPIP, IPPROTO_IPV6


class RouteNews:
    """As a context manager. Raises KernelError.

    The kernel learns the MTU of a path from "fragmentation needed" only for a
    protocol that somebody has a socket of (raw(7)); nobody here has one of IPIP,
    as its packets are made by a program. So this does, and receives no packet.
    """

    def __init__(self, sources: Iterable[Address]) -> None:
        self._news = asyncio.Event()
        self._sockets: list[socket.socket] = []
        try:
            self._sockets.append(_multicasts())
            for source in sources:
                self._sockets += [_complaints(source, inner) for inner in _INNER]
        except OSError as error:
            self._close()
            raise KernelError("watching routes", error.errno or 0) from None

    def __enter__(self) -> RouteNews:
        for one in self._sockets:
            asyncio.get_running_loop().add_reader(one, self._read, one)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for one in self._sockets:
            asyncio.get_running_loop().remove_reader(one)
        self._close()

    async def wait(self, seconds: float) -> None:
        """Until there is news that no earlier call has returned for, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()

    def _read(self, one: socket.socket) -> None:
        """What it is does not matter, and that some was lost (ENOBUFS) neither."""
        self._news.set()
        flags = 0 if one.family == socket.AF_NETLINK else socket.MSG_ERRQUEUE
        with suppress(OSError):  # EAGAIN, in the end
            while True:
                one.recvmsg(4096, 512, flags)

    def _close(self) -> None:
        for one in self._sockets:
            one.close()


def _multicasts() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    made.bind((0, _GROUPS))
    return made


def _complaints(source: Address, inner: int) -> socket.socket:
    """ICMP errors about packets from `source` that carry this protocol (ip(7), IP_RECVERR)."""
    ipv4 = source.version == 4
    family = socket.AF_INET if ipv4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, inner)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _nothing())
        if ipv4:
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        made.bind((str(source), 0))
    except OSError:
        made.close()
        raise
    return made


def _nothing() -> bytes:
    """A struct sock_fprog of one instruction, "return 0": every packet is too long for that."""
    return struct.pack("HP", 1, ctypes.addressof(_RETURN_0))


_RETURN_0 = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
