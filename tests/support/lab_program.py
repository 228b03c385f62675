# SPDX-License-Identifier: Apache-2.0
"""A program in a node of the lab that does what the test tells it (see lab_cluster.Program).

    lab_program.py NAME

A request is a JSON line on standard input, `{"do": ..., ...}`; its answer is one
on standard output: `{"is": ...}` or `{"errno": ...}`. Its listeners greet each
connection with NAME and echo what comes; its UDP sockets answer with NAME and
what came. It has one thread: nothing holds a socket but its descriptor.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

MPTCP = 262  # IPPROTO_MPTCP; Python's socket module has it from 3.12 on
IP_PKTINFO = 8
ALL_PROTOCOLS = 3  # ETH_P_ALL
PATIENCE = 10.0


class Program:
    def __init__(self, name: str) -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[int, socket.socket] = {}
        self._number = 0
        self._requests = b""

    # ---- as a server ----

    def do_listen(
        self, address: str, port: int = 0, listen: bool = True, mptcp: bool = False, **options: bool
    ) -> list[int]:
        made = socket.socket(_family(address), socket.SOCK_STREAM, MPTCP if mptcp else 0)
        self._bind(made, address, port, options)
        if listen:
            made.listen(256)
            self._on_readable(made, self._accept)
        return self._keep(made)

    def do_bind_udp(self, address: str, port: int = 0, **options: bool) -> list[int]:
        made = socket.socket(_family(address), socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self._bind(made, address, port, options)
        self._on_readable(made, self._answer)
        return self._keep(made)

    def do_close(self, number: int) -> None:
        made = self._sockets.pop(number)
        if made in [key.fileobj for key in self._selector.get_map().values()]:
            self._selector.unregister(made)
        made.close()

    def do_fork(self) -> int:
        """The pid of a child that has all our sockets, and only sleeps."""
        child = os.fork()
        if child == 0:
            signal.pause()
        return child

    def do_reap(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    def _bind(self, made: socket.socket, address: str, port: int, options: dict[str, bool]) -> None:
        known = {
            "reuse_port": (socket.SOL_SOCKET, socket.SO_REUSEPORT),
            "reuse_address": (socket.SOL_SOCKET, socket.SO_REUSEADDR),
            "v6only": (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
        }
        try:
            for name, value in options.items():
                made.setsockopt(*known[name], int(value))
            made.bind((address, port))
        except BaseException:
            made.close()
            raise

    def _accept(self, listener: socket.socket) -> None:
        connection = listener.accept()[0]
        connection.sendall(f"{self._name}\n".encode())
        self._on_readable(connection, self._echo)

    def _echo(self, connection: socket.socket) -> None:
        try:
            words = connection.recv(65536)
        except OSError:
            words = b""
        if words:
            connection.sendall(words)
        else:
            self._selector.unregister(connection)
            connection.close()

    def _answer(self, server: socket.socket) -> None:
        """From the address that was asked, also if bound to the wildcard: ip(7), IP_PKTINFO; and
        ipv6(7), IPV6_PKTINFO, which a socket of IPv6 gets for IPv4 too."""
        words, told, _, client = server.recvmsg(65536, 128)
        level, kind, info = told[-1]
        if level == socket.IPPROTO_IPV6:
            source = (level, kind, info[:16] + bytes(4))
        else:
            _, asked, _ = struct.unpack("i4s4s", info)
            source = (level, kind, struct.pack("i4s4s", 0, asked, bytes(4)))
        server.sendmsg([f"{self._name} ".encode(), words], [source], 0, client)

    # ---- as a client ----

    def do_connect(
        self, address: str, port: int, source: int = 0, mptcp: bool = False
    ) -> list[Any]:
        """Number, own port, and who greeted."""
        made = socket.socket(_family(address), socket.SOCK_STREAM, MPTCP if mptcp else 0)
        made.settimeout(PATIENCE)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(("", source))
            made.connect((address, port))
            greeting = _line(made)
        except BaseException:
            made.close()
            raise
        return [*self._keep(made), greeting]

    def do_fetch(self, address: str, port: int, count: int) -> list[str]:
        """Who greeted, of `count` connections one after the other."""
        greetings = []
        for _ in range(count):
            number, _, greeting = self.do_connect(address, port)
            greetings.append(greeting)
            self.do_close(number)
        return greetings

    def do_say(self, number: int, words: str) -> str:
        """What comes back on a connection."""
        self._sockets[number].sendall(f"{words}\n".encode())
        return _line(self._sockets[number])

    def do_ask_udp(
        self, address: str, port: int, count: int = 1, source: int = 0, length: int = 1
    ) -> list[str]:
        """Who answered, of `count` datagrams of `length` bytes from a connected socket each.

        Connected: an answer from elsewhere is not received, a refusal raises ECONNREFUSED.
        """
        answers = []
        for _ in range(count):
            with socket.socket(_family(address), socket.SOCK_DGRAM) as made:
                made.settimeout(PATIENCE)
                made.bind(("", source))
                made.connect((address, port))
                made.send(b"?" * length)
                answers.append(made.recv(65536).decode().split()[0])
        return answers

    # ---- on the wire ----

    def do_wire(self, interface: str) -> list[int]:
        """Sees every frame of the interface from now on."""
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
        made.bind((interface, ALL_PROTOCOLS))
        made.settimeout(PATIENCE)
        self._number += 1
        self._sockets[self._number] = made
        return [self._number]

    def do_send(self, number: int, frame: str) -> None:
        self._sockets[number].send(bytes.fromhex(frame))

    def do_frame(self, number: int) -> str:
        """The next frame that came in, in hexadecimal; waits for it."""
        while True:
            frame, origin = self._sockets[number].recvfrom(65536)
            if origin[2] != socket.PACKET_OUTGOING:
                return frame.hex()

    # ---- all ----

    def do_reset(self) -> None:
        """Closes all, the connections accepted too; abortively: no port stays in TIME_WAIT."""
        open_ = [k.fileobj for k in self._selector.get_map().values() if k.fileobj is not sys.stdin]
        for made in {*self._sockets.values(), *open_}:
            assert isinstance(made, socket.socket)
            if made in open_:
                self._selector.unregister(made)
            if made.family != socket.AF_PACKET:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            made.close()
        self._sockets.clear()

    def serve(self) -> None:
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    key.data(key.fileobj)
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        read = os.read(0, 65536)
        *lines, self._requests = (self._requests + read).split(b"\n")
        for line in lines:
            print(json.dumps(self._result(json.loads(line))), flush=True)
        return bool(read)

    def _result(self, request: dict[str, Any]) -> dict[str, Any]:
        act = getattr(self, f"do_{request.pop('do')}")
        try:
            return {"is": act(**request)}
        except TimeoutError:
            return {"errno": 0, "error": "timed out"}
        except OSError as error:
            return {"errno": error.errno, "error": str(error)}

    def _keep(self, made: socket.socket) -> list[int]:
        self._number += 1
        self._sockets[self._number] = made
        return [self._number, made.getsockname()[1]]

    def _on_readable(self, made: socket.socket, act: Callable[[socket.socket], None]) -> None:
        self._selector.register(made, selectors.EVENT_READ, act)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _line(connection: socket.socket) -> str:
    read = b""
    while not read.endswith(b"\n"):
        more = connection.recv(1)
        if not more:
            raise ConnectionError(0, "closed")
        read += more
    return read.decode().rstrip("\n")


if __name__ == "__main__":
    Program(sys.argv[1]).serve()
