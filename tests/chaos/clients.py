# SPDX-License-Identifier: Apache-2.0
"""The users of the VIP: `-m tests.chaos.clients VIP HISTORY SEED`, in the client's node.

Downloads by curl, HTTP and passive FTP; long TCP and UDP echoes; probes of every port that
may have a listener, and of those that must not have one. All bytes are compared. It begins
nothing new once its standard input ends, and ends with what it has begun.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass
from pathlib import Path

from tests.chaos.recorder import Reader, Recorder
from tests.chaos.scenario import SHARED_TCP, SHARED_UDP
from tests.chaos.servers import ECHO, FTP, HTTP, UDP_ECHO, WILDCARD, content

DOWNLOADS, FTPS, ECHOES, FLOWS = 3, 1, 4, 2
PROBE_SECONDS = 5.0
"""Longer than two repetitions of a lost SYN take."""
PROBE_PAUSE = 0.5
LONGEST_SECONDS = 60.0
"""A connection that has not gone on for so long is broken."""
FTP_LENGTH = 200_000


class Clients:
    def __init__(self, vip: str, history: Path, seed: int) -> None:
        self._vip = vip
        self._tell = Recorder(history).tell
        self._reader = Reader(history)
        self._dice = random.Random(seed)
        self._over = asyncio.Event()
        self._given: dict[str, tuple[str, int]] = {}  # ports of bind(VIP, 0) that are open

    async def run(self) -> None:
        users: list[Callable[[], Awaitable[None]]] = [
            *[self.download] * DOWNLOADS,
            *[self.ftp] * FTPS,
            *[self.echo] * ECHOES,
            *[self.flow] * FLOWS,
        ]
        fixed = [("tcp", port) for port in (*SHARED_TCP, HTTP, ECHO, FTP, WILDCARD)]
        fixed += [("udp", port) for port in (*SHARED_UDP, UDP_ECHO, WILDCARD)]
        async with asyncio.TaskGroup() as tasks:
            for user in users:
                tasks.create_task(self._again(user))
            for protocol, port in fixed:
                tasks.create_task(self._again(self._prober(protocol, port)))
            tasks.create_task(self._follow(tasks))
            await _end_of_input()
            self._over.set()

    async def _again(self, do: Callable[[], Awaitable[None]]) -> None:
        while not self._over.is_set():
            await do()

    # ---- probes ----

    def _prober(self, protocol: str, port: int) -> Callable[[], Awaitable[None]]:
        async def probe() -> None:
            await self.probe(protocol, port)
            await asyncio.sleep(PROBE_PAUSE * self._dice.uniform(0.8, 1.2))

        return probe

    async def _follow(self, tasks: asyncio.TaskGroup) -> None:
        """Ports that bind(VIP, 0) has given are probed from the beginning."""
        while not self._over.is_set():
            for event in self._reader.new():
                if event["kind"] == "opened" and event["zero"] and event["lasting"]:
                    self._given[event["id"]] = (event["protocol"], event["port"])
                    tasks.create_task(self._probe_while_open(event["id"]))
                elif event["kind"] == "closed":
                    self._given.pop(event["id"], None)
                elif event["kind"] == "died":
                    self._forget(event["host"])
            await asyncio.sleep(0.02)

    def _forget(self, host: str) -> None:
        for name in [name for name in self._given if name.split()[0] == host]:
            del self._given[name]

    async def _probe_while_open(self, name: str) -> None:
        while name in self._given and not self._over.is_set():
            await self.probe(*self._given[name])
            await asyncio.sleep(PROBE_PAUSE)

    async def probe(self, protocol: str, port: int) -> None:
        began = time.monotonic()
        ask = self._ask_tcp if protocol == "tcp" else self._ask_udp
        answer = error = None
        try:
            answer = await asyncio.wait_for(ask(port), PROBE_SECONDS)
        except (OSError, EOFError) as broken:
            error = _word(broken)
        self._tell("probe", protocol=protocol, port=port, began=began, answer=answer, error=error)

    async def _ask_tcp(self, port: int) -> str:
        """The host that greets; HTTP has to be asked. Aborted, so that no port is in TIME_WAIT."""
        reader, writer = await asyncio.open_connection(self._vip, port)
        try:
            if port == HTTP:
                writer.write(b"GET /1/0 HTTP/1.1\r\nHost: vip\r\n\r\n")
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                return head.partition("X-Host: ")[2].split()[0]
            return (await reader.readuntil(b"\n")).decode().removeprefix("220 ").split()[0]
        finally:
            writer.transport.abort()

    async def _ask_udp(self, port: int) -> str:
        with _udp_socket(self._vip, port) as made:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(made, b"?")
            return (await loop.sock_recv(made, 2048)).decode().split()[0]

    # ---- curl ----

    async def download(self) -> None:
        length = self._dice.randrange(1, 400_000)
        url = f"http://{self._vip}/{length}/{self._dice.randrange(500, 6000)}"
        await self._curl("http", HTTP, url, content(length))
        await asyncio.sleep(self._dice.uniform(0, 0.3))

    async def ftp(self) -> None:
        url = f"ftp://demo:demo@{self._vip}/{FTP_LENGTH}"
        await self._curl("ftp", FTP, url, content(FTP_LENGTH))
        await asyncio.sleep(self._dice.uniform(0, 0.3))

    async def _curl(self, service: str, port: int, url: str, wanted: bytes) -> None:
        began = time.monotonic()
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-gsS", "-v", "--fail", "--max-time", str(LONGEST_SECONDS)),
            *("--connect-timeout", str(PROBE_SECONDS), "-w", "%{stderr}\n%{local_port}\n", url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        body, told = await curl.communicate()
        lines = told.decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("curl: ")]
        self._tell(
            "connection",
            service=service,
            port=port,
            client=int(lines[-1]) if service == "http" else None,  # FTP's is of another connection
            began=began,
            connected=any(f"({self._vip}) port {port} " in line for line in lines),
            answer=_host_in(lines),
            ok=curl.returncode == 0 and body == wanted,
            error=errors[-1] if errors else None,
            corrupt=not wanted.startswith(body),
        )

    # ---- echoes ----

    async def echo(self) -> None:
        """A connection with something to say ten times a second, for 3 to 20 s."""
        began, told = time.monotonic(), Told()
        try:
            await self._echo_for(self._dice.uniform(3, 20), told)
        except (OSError, EOFError) as error:
            told.error = _word(error)
        self._tell(
            "connection",
            service="echo",
            port=ECHO,
            client=told.client,
            began=began,
            connected=told.client is not None,
            answer=told.host,
            ok=told.error is None and not told.corrupt,
            error=told.error,
            corrupt=told.corrupt,
        )
        await asyncio.sleep(0.1)

    async def _echo_for(self, seconds: float, told: Told) -> None:
        connecting = asyncio.open_connection(self._vip, ECHO)
        reader, writer = await asyncio.wait_for(connecting, PROBE_SECONDS)
        told.client = writer.get_extra_info("sockname")[1]
        try:
            greeting = await asyncio.wait_for(reader.readuntil(b"\n"), LONGEST_SECONDS)
            told.host = greeting.decode().strip()
            until = time.monotonic() + seconds
            while time.monotonic() < until and not self._over.is_set() and not told.corrupt:
                words = os.urandom(self._dice.randrange(1, 4000))
                writer.write(words)
                back = await asyncio.wait_for(reader.readexactly(len(words)), LONGEST_SECONDS)
                told.corrupt = back != words
                await asyncio.sleep(0.1)
        finally:
            writer.transport.abort()

    async def flow(self) -> None:
        """Datagrams from one port, for 3 to 20 s; each is answered before the next, or lost."""
        began, until = time.monotonic(), time.monotonic() + self._dice.uniform(3, 20)
        answers: list[Stay] = []
        lost: list[float] = []
        corrupt = False
        with _udp_socket(self._vip, UDP_ECHO) as made:
            client = made.getsockname()[1]
            while time.monotonic() < until and not self._over.is_set():
                sent, words = time.monotonic(), os.urandom(self._dice.randrange(20, 1400)).hex()
                try:
                    host, back = await asyncio.wait_for(_said(made, words[:1400]), 1.0)
                except OSError:
                    lost.append(sent)
                else:
                    corrupt |= back != words[:1400]
                    _stay(answers, host)
                await asyncio.sleep(0.2)
        self._tell(
            "flow",
            port=UDP_ECHO,
            client=client,
            began=began,
            answers=[astuple(stay) for stay in answers],
            lost=lost,
            corrupt=corrupt,
        )


@dataclass
class Told:
    """Of one connection, as far as it got."""

    client: int | None = None
    host: str | None = None
    error: str | None = None
    corrupt: bool = False


@dataclass
class Stay:
    """Of a flow at a host: from its first answer to its last."""

    first: float
    last: float
    host: str


def _stay(answers: list[Stay], host: str) -> None:
    now = time.monotonic()
    if answers and answers[-1].host == host:
        answers[-1].last = now
    else:
        answers.append(Stay(now, now, host))


async def _said(made: socket.socket, words: str) -> tuple[str, str]:
    """Who answered, and what. What answers an earlier question, that was given up, is left out."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(made, words.encode())
    while True:
        host, _, back = (await loop.sock_recv(made, 4096)).decode().partition(" ")
        if back[:20] == words[:20]:
            return host, back


def _udp_socket(vip: str, port: int) -> socket.socket:
    """Connected: a refusal is an error, and an answer from elsewhere is not received."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.connect((vip, port))
    return made


def _host_in(lines: list[str]) -> str | None:
    """HTTP: X-Host; FTP: the banner."""
    for line in lines:
        if line.startswith(("< X-Host: ", "< 220 ")):
            return line.split()[2]
    return None


def _word(error: BaseException) -> str:
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


async def _end_of_input() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()


if __name__ == "__main__":
    asyncio.run(Clients(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])).run())
