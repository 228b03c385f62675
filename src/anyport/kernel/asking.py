# SPDX-License-Identifier: Apache-2.0
"""Asking the LAN who has an address, by whichever protocol (packet(7))."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from anyport.errors import KernelError
from anyport.kernel.netlink import Interface
from anyport.model.definition import Address

PROBES = 3
PROBE_SECONDS = 0.15
"""Of waiting after each. RFC 5227 and RFC 4862 wait longer, for links that come up only now."""

Said = Callable[[bytes], tuple[bytes, Address | None]]
"""A frame -> its sender's MAC, and the address that it says it has; None: it says nothing."""


async def ask(
    protocol: str, ether_type: int, question: bytes, said: Said, address: Address, lan: Interface
) -> bytes | None:
    """The MAC of another machine that has `address`; None: nobody said so. Raises KernelError."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK) as wire:
            wire.bind((lan.name, ether_type))
            for _ in range(PROBES):
                wire.send(question)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_SECONDS):
                        return await _answer(wire, said, address, lan.mac)
    except OSError as error:
        raise KernelError(f"{protocol} on {lan.name}", error.errno or 0) from None
    return None


async def _answer(wire: socket.socket, said: Said, address: Address, own: bytes) -> bytes:
    while True:
        mac, holder = said(await asyncio.get_running_loop().sock_recv(wire, 128))
        if holder == address and mac != own:
            return mac
