# SPDX-License-Identifier: Apache-2.0
"""The servers of one host: `-m tests.chaos.servers HOST VIP HISTORY FILES`, in its node.

HTTP on 80, an echo on 7, FTP on 21, UDP echo on 53, all bound to the VIP; and on 22,
TCP and UDP, what is bound to the wildcard and must not be reached by the VIP (R2, R8).
A line on standard input opens one more: `open ID PROTOCOL PORT` or ends it: `close ID`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from shutil import which
from typing import Any

from tests.chaos.recorder import Event, Recorder

HTTP, ECHO, FTP, UDP_ECHO, WILDCARD = 80, 7, 21, 53, 22
IPERF = 5200
"""And the host's number: its two connections must come to one host."""
PIECES = 20
FTP_BYTES_A_SECOND = 150_000


def content(length: int) -> bytes:
    """Every host has the same for a length."""
    return random.Random(length).randbytes(length)


class Servers:
    def __init__(self, host: str, vip: str, recorder: Recorder) -> None:
        self._host = host
        self._vip = vip
        self._tell = recorder.tell
        self._closings: dict[str, Callable[[], object]] = {}

    async def start(self) -> None:
        await self._tcp("http", HTTP, self._http)
        await self._tcp("echo", ECHO, self._echo)
        await self._udp("udp", UDP_ECHO)
        wildcard = await asyncio.start_server(self._wildcard, "0.0.0.0", WILDCARD)
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(
            lambda: Leak(self._leaked), local_addr=("0.0.0.0", WILDCARD)
        )
        self._closings["wildcard"] = wildcard.close

    # ---- what the runner says ----

    async def obey(self, line: str) -> None:
        verb, name, *more = line.split()
        if verb == "close":
            closing = self._closings.pop(name, None)  # unknown: of a former life of this process
            if closing is not None:
                self._tell("closed", id=self._id(name))
                closing()
            return
        protocol, port = more[0], int(more[1])
        try:
            if protocol == "tcp":
                await self._tcp(name, port, self._echo)
            else:
                await self._udp(name, port)
        except OSError as error:
            self._tell("refused", host=self._host, zero=not port, errno=error.errno)

    async def _tcp(self, name: str, port: int, serve: Callable[..., Any]) -> None:
        made = self._bound(socket.SOCK_STREAM, port)
        server = await asyncio.start_server(serve, sock=made)
        self._opened(name, "tcp", port, made.getsockname()[1])
        self._closings[name] = server.close

    async def _udp(self, name: str, port: int) -> None:
        made = self._bound(socket.SOCK_DGRAM, port)
        made.setblocking(False)
        loop = asyncio.get_running_loop()
        endpoint, _ = await loop.create_datagram_endpoint(lambda: Answers(self._host), sock=made)
        self._opened(name, "udp", port, made.getsockname()[1])
        self._closings[name] = endpoint.abort

    def _bound(self, kind: socket.SocketKind, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, kind)
        try:
            if port and kind is socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self._vip, port))
        except BaseException:
            made.close()
            raise
        return made

    def _opened(self, name: str, protocol: str, asked: int, port: int) -> None:
        self._tell(
            "opened",
            host=self._host,
            id=self._id(name),
            protocol=protocol,
            port=port,
            zero=not asked,
            lasting=True,
        )

    def _id(self, name: str) -> str:
        return f"{self._host} {name}"

    # ---- connections ----

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`GET /LENGTH/MILLISECONDS`: so many bytes, spread over the time."""
        self._accepted(writer)
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            _, length, milliseconds = request.split()[1].split("/")
            body = content(int(length))
            writer.write(
                f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
                f"X-Host: {self._host}\r\nConnection: close\r\n\r\n".encode()
            )
            piece = len(body) // PIECES + 1
            for begin in range(0, len(body), piece):
                writer.write(body[begin : begin + piece])
                await writer.drain()
                await asyncio.sleep(int(milliseconds) / 1000 / PIECES)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted(writer)
        try:
            writer.write(f"{self._host}\n".encode())
            while words := await reader.read(65536):
                writer.write(words)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def _accepted(self, writer: asyncio.StreamWriter) -> None:
        own, client = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
        self._tell("accepted", host=self._host, port=own[1], client=client[1])

    async def _wildcard(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("sockname")[0] == self._vip:
            self._leaked("tcp")
        writer.write(f"SSH-2.0-{self._host}\r\n".encode())
        writer.close()

    def _leaked(self, protocol: str) -> None:
        self._tell("leaked", host=self._host, protocol=protocol)


class Answers(asyncio.DatagramProtocol):
    def __init__(self, host: str) -> None:
        self._prefix = f"{host} ".encode()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, words: bytes, client: Any) -> None:
        self._transport.sendto(self._prefix + words, client)


class Leak(asyncio.DatagramProtocol):
    """Only what is sent to the VIP is sent to that port."""

    def __init__(self, leaked: Callable[[str], None]) -> None:
        self._leaked = leaked

    def datagram_received(self, words: bytes, client: Any) -> None:
        self._leaked("udp")


async def serve_iperf(host: str, vip: str, recorder: Recorder) -> None:
    """One client after the other, by an iperf3 each; it dies with this process."""
    for number in count():
        port, name = iperf_port(host), f"{host} iperf{number}"
        told: Event = {"host": host, "id": name, "protocol": "tcp", "port": port}
        recorder.tell("opened", **told, zero=False, lasting=False)
        made = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "iperf3", "--server", "--one-off"),
            *("--bind", vip, "--port", str(port), "--rcv-timeout", "10000"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await made.wait()
        recorder.tell("closed", id=name)
        await asyncio.sleep(0.1)


def iperf_port(host: str) -> int:
    return IPERF + int(host.removeprefix("host"))


def ftp_server(host: str, vip: str, files: str, recorder: Recorder) -> Any:
    """Passive: each transfer has a port that bind(VIP, 0) gave. The port is in use until the
    listener and its one connection have ended."""
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler, ThrottledDTPHandler
    from pyftpdlib.log import config_logging
    from pyftpdlib.servers import FTPServer

    config_logging(level=50)

    def opened(which: object, port: int, zero: bool = True) -> None:
        name = f"{host} {type(which).__name__} {id(which)}"
        told: Event = {"host": host, "id": name, "protocol": "tcp", "port": port}
        recorder.tell("opened", **told, zero=zero, lasting=not zero)

    def closed(which: object) -> None:
        recorder.tell("closed", id=f"{host} {type(which).__name__} {id(which)}")

    class Passive(FTPHandler.passive_dtp):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            try:
                super().__init__(*arguments, **options)
            except OSError as error:
                recorder.tell("refused", host=host, zero=True, errno=error.errno)
                raise
            if self.socket is not None and self.socket.fileno() >= 0:
                opened(self, self.socket.getsockname()[1])

        def close(self) -> None:
            closed(self)
            super().close()

    class Data(ThrottledDTPHandler):  # type: ignore[misc]
        write_limit = FTP_BYTES_A_SECOND

        def __init__(self, made: socket.socket, channel: FTPHandler) -> None:
            opened(self, made.getsockname()[1])
            super().__init__(made, channel)

        def close(self) -> None:
            closed(self)
            super().close()

    class Handler(FTPHandler):  # type: ignore[misc]
        authorizer = DummyAuthorizer()
        banner = host
        passive_dtp = Passive
        dtp_handler = Data
        use_sendfile = False

        def on_connect(self) -> None:
            recorder.tell("accepted", host=host, port=FTP, client=self.remote_port)

    Handler.authorizer.add_user("demo", "demo", files, perm="elr")
    server = FTPServer((vip, FTP), Handler)
    opened(server, FTP, zero=False)
    return server


async def main(host: str, vip: str, history: str, files: str) -> None:
    recorder = Recorder(Path(history))
    servers = Servers(host, vip, recorder)
    await servers.start()
    ftp = ftp_server(host, vip, files, recorder)
    threading.Thread(target=ftp.serve_forever, args=(None, True, False), daemon=True).start()
    requests = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(requests), sys.stdin
    )
    iperf = asyncio.create_task(serve_iperf(host, vip, recorder)) if which("iperf3") else None
    print("ready", flush=True)
    while line := await requests.readline():
        await servers.obey(line.decode())
    if iperf is not None:
        iperf.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
