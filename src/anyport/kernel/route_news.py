# SPDX-License-Identifier: Apache-2.0
"""When routes are to be looked up again: at the kernel's multicasts (rtnetlink(7))."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from types import TracebackType

from anyport.errors import KernelError

# <linux/rtnetlink.h>: a bit a group. An address comes and goes with routes.
_GROUPS = sum(
    1 << group - 1
    for group in (
        1,  # RTNLGRP_LINK
        7,  # RTNLGRP_IPV4_ROUTE
        8,  # RTNLGRP_IPV4_RULE
        11,  # RTNLGRP_IPV6_ROUTE
        19,  # RTNLGRP_IPV6_RULE
    )
)


class RouteNews:
    """As a context manager: all changes from its beginning on. Raises KernelError."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            self._socket.close()
            raise KernelError("watching routes", error.errno or 0) from None

    def __enter__(self) -> RouteNews:
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    async def wait(self, seconds: float) -> bool:
        """Until there is news that no earlier call has returned for; False: not for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        heard = self._news.is_set()
        self._news.clear()
        return heard

    def _read(self) -> None:
        """What it is does not matter, and that some was lost (ENOBUFS) neither."""
        self._news.set()
        with suppress(OSError):  # EAGAIN, in the end
            while True:
                self._socket.recv(65536)
