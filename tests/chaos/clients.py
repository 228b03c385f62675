# SPDX-License-Identifier: Apache-2.0
"""The users of the VIP: `-m tests.chaos.clients VIP HISTORY SEED HOST...`, in the client's node.

Downloads by curl, HTTP and passive FTP; iperf3; long TCP and UDP echoes; probes of every port that
may have a listener, and of those that must not have one. All bytes are compared. It begins
nothing new once its standard input ends, and ends with what it has begun.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from shutil import which

from tests.chaos import asking
from tests.chaos.recorder import Event, Reader, Recorder
from tests.chaos.scenario import SHARED_TCP, SHARED_UDP
from tests.chaos.servers import ECHO, FTP, HTTP, UDP_ECHO, WILDCARD, content, iperf_port

DOWNLOADS, FTPS, ECHOES, FLOWS = 3, 1, 4, 2
PROBE_SECONDS = 5.0
"""Longer than two repetitions of a lost SYN take."""
PROBE_PAUSE = 0.5
LONGEST_SECONDS = 60.0
"""A connection that has not gone on for so long is broken."""
FTP_LENGTH = 600_000
IPERF_REFUSALS = ("unable to connect", "busy")


class Clients:
    def __init__(self, vip: str, history: Path, seed: int, hosts: list[str]) -> None:
        self._vip = vip
        self._hosts = hosts
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
            *[self.iperf] * bool(which("iperf3")),
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
        began, told = time.monotonic(), Told()
        if protocol == "tcp":
            ask = asking.tcp(self._vip, port, told.connected)
        else:
            ask = asking.udp(self._vip, port)
        try:
            told.host = await asyncio.wait_for(ask, PROBE_SECONDS)
        except (OSError, EOFError) as broken:
            told.error = asking.word(broken)
        met: Event = {"client": told.client, "answer": told.host, "error": told.error}
        self._tell("probe", protocol=protocol, port=port, began=began, **met)

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

    async def iperf(self) -> None:
        """It is reset, or hangs, if either of its connections is. A host where nobody is at the
        port just then, or is busy, is none that broke."""
        began, host = time.monotonic(), self._dice.choice(self._hosts)
        client = await asyncio.create_subprocess_exec(
            *("iperf3", "--client", self._vip, "--port", str(iperf_port(host)), "--json"),
            *("--connect-timeout", str(int(PROBE_SECONDS * 1000))),
            *("--bytes", "500K", "--bitrate", "1M"),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            told, _ = await asyncio.wait_for(client.communicate(), LONGEST_SECONDS)
            error = json.loads(told).get("error")
        except (TimeoutError, ValueError):
            client.kill()
            error = "no end"
        connected = error is None or not any(words in error for words in IPERF_REFUSALS)
        self._tell(
            "connection",
            service="iperf3",
            port=iperf_port(host),
            client=None,
            began=began,
            connected=connected,
            answer=host,
            ok=error is None,
            error=error,
            corrupt=False,
        )
        await asyncio.sleep(0.5)

    # ---- echoes ----

    async def echo(self) -> None:
        """A connection with something to say ten times a second, for 3 to 20 s."""
        began, told = time.monotonic(), Told()
        try:
            await self._echo_for(self._dice.uniform(3, 20), told)
        except (OSError, EOFError) as error:
            told.error = asking.word(error)
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
        with asking.udp_socket(self._vip, UDP_ECHO) as made:
            client = made.getsockname()[1]
            while time.monotonic() < until and not self._over.is_set():
                sent, words = time.monotonic(), os.urandom(self._dice.randrange(20, 1400)).hex()
                try:
                    host, back = await asyncio.wait_for(asking.said(made, words[:1400]), 1.0)
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

    def connected(self, client: int) -> None:
        self.client = client


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


def _host_in(lines: list[str]) -> str | None:
    """HTTP: X-Host; FTP: the banner."""
    for line in lines:
        if line.startswith(("< X-Host: ", "< 220 ")):
            return line.split()[2]
    return None


async def _end_of_input() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()


if __name__ == "__main__":
    asyncio.run(Clients(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]).run())
