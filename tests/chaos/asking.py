# SPDX-License-Identifier: Apache-2.0
"""Who is there: one question to a port, and what comes of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tests.chaos.servers import HTTP


async def tcp(vip: str, port: int, connected: Callable[[int], object]) -> str:
    """The host that greets; HTTP has to be asked. Aborted, so that no port is in TIME_WAIT, and
    the next connection may be of the same one: `connected` is told which."""
    reader, writer = await asyncio.open_connection(vip, port)
    connected(writer.get_extra_info("sockname")[1])
    try:
        if port == HTTP:
            writer.write(b"GET /1/0 HTTP/1.1\r\nHost: vip\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            return head.partition("X-Host: ")[2].split()[0]
        return (await reader.readuntil(b"\n")).decode().removeprefix("220 ").split()[0]
    finally:
        writer.transport.abort()


async def udp(vip: str, port: int) -> str:
    with udp_socket(vip, port) as made:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(made, b"?")
        return (await loop.sock_recv(made, 2048)).decode().split()[0]


async def said(made: socket.socket, words: str) -> tuple[str, str]:
    """Who answered, and what. What answers an earlier question, that was given up, is left out."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(made, words.encode())
    while True:
        host, _, back = (await loop.sock_recv(made, 4096)).decode().partition(" ")
        if back[:20] == words[:20]:
            return host, back


def udp_socket(vip: str, port: int) -> socket.socket:
    """Connected: a refusal is an error, and an answer from elsewhere is not received."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.connect((vip, port))
    return made


def word(error: BaseException) -> str:
    match error:
        case ConnectionRefusedError():
            return "refused"
        case TimeoutError():
            return "timeout"
        case ConnectionResetError():
            return "reset"
        case EOFError():
            return "closed"
    return type(error).__name__
