# SPDX-License-Identifier: Apache-2.0
"""A program in a node of the lab that does what the test tells it (see lab_cluster.Program).

    lab_program.py NAME

A request is a JSON line on standard input, `{"do": ..., ...}`; its answer is one
on standard output: `{"is": ...}` or `{"errno": ...}`. Its listeners greet each
connection with NAME and echo what comes; its UDP sockets answer with NAME and
what came. Those that are `quiet` wait to be told to. It has one thread: nothing
holds a socket but its descriptor.
"""

from __future__ import annotations

import errno
import json
import os
import random
import select
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

MPTCP = 262  # IPPROTO_MPTCP; Python's socket module has it from 3.12 on
IP_PKTINFO = 8
ALL_PROTOCOLS = 3  # ETH_P_ALL
IP_TTL, IP_RECVERR, IPV6_UNICAST_HOPS, IPV6_RECVERR = 2, 11, 16, 25
PATIENCE = 10.0


LAST_ACK_SECONDS = 2.0
"""For ports to be free: some clients' kernels, one in thousands, do not acknowledge a FIN before it
is repeated. Of a client that is gone nobody waits for more."""
PACE, SLOWLY = 0.02, 256
"""Seconds between two rounds of downloads, and bytes that one reads in a round."""
BREATH = 0.01
"""Seconds between two rounds of those who otherwise left no time to the daemons under test."""


class Download:
    """With a small window: the server has something to send as long as it lasts."""

    def __init__(self, address: str, port: int, expected: bytes) -> None:
        self._expected = memoryview(expected)
        self.wrong = ""
        self._socket = socket.socket(_family(address), socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(PATIENCE)
        self._socket.connect((address, port))
        self.greeting = _line(self._socket)

    def read(self, most: int) -> None:
        """What is there."""
        if self._expected and not self.wrong:
            self._take(most, socket.MSG_DONTWAIT)

    def finish(self) -> None:
        self._socket.settimeout(3 * PATIENCE)  # a server's repetitions may be as far apart
        while self._expected and not self.wrong:
            self._take(1 << 16)
        self._socket.close()

    def _take(self, most: int, flags: int = 0) -> None:
        try:
            got = self._socket.recv(most, flags)
        except BlockingIOError:
            return
        except OSError as error:
            self.wrong = f"{self.greeting}: {error}, {len(self._expected)} bytes before the end"
            return
        if not got or got != self._expected[: len(got)]:
            self.wrong = f"{self.greeting}: not what was sent, or ended early"
        self._expected = self._expected[len(got) :]


class Program:
    def __init__(self, name: str) -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[int, socket.socket] = {}
        self._number = 0
        self._requests = b""

    # ---- as a server ----

    def do_listen(
        self,
        address: str,
        port: int = 0,
        listen: bool = True,
        mptcp: bool = False,
        quiet: bool = False,
        defer: bool = False,
        **options: bool,
    ) -> list[int]:
        """`defer`: handshakes end with the client's first data (tcp(7), TCP_DEFER_ACCEPT)."""
        made = socket.socket(_family(address), socket.SOCK_STREAM, MPTCP if mptcp else 0)
        if defer:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
        self._bind(made, address, port, options)
        if listen:
            made.listen(256)
        if listen and not quiet:
            self._on_readable(made, self._accept)
        return self._keep(made)

    def do_accept(self, number: int) -> list[int]:
        """Of a quiet listener: number and the client's port."""
        self._sockets[number].settimeout(PATIENCE)
        made, client = self._sockets[number].accept()
        made.settimeout(PATIENCE)
        return [*self._keep(made)[:1], client[1]]

    def do_answer_apart(self, number: int) -> list[int]:
        """To a quiet socket's next client a connected socket of its own answers, to others it."""
        server = self._sockets[number]
        words, client = server.recvfrom(65536)
        made = socket.socket(server.family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(server.getsockname())
        made.connect(client)
        made.send(f"{self._name} ".encode() + words)
        self._on_readable(made, self._answer_connected)
        self._on_readable(server, self._answer)
        return self._keep(made)

    def do_bind_udp(
        self, address: str, port: int = 0, quiet: bool = False, **options: bool
    ) -> list[int]:
        made = socket.socket(_family(address), socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self._bind(made, address, port, options)
        made.settimeout(PATIENCE)
        if not quiet:
            self._on_readable(made, self._answer)
        return self._keep(made)

    def do_serve(self, address: str, port: int, length: int) -> list[int]:
        """A listener that sends each connection NAME and so many bytes (see `content`)."""
        made = socket.socket(_family(address), socket.SOCK_STREAM)
        self._bind(made, address, port, {})
        made.listen(512)

        def accept(listener: socket.socket) -> None:
            connection = listener.accept()[0]
            connection.setblocking(False)
            left = [memoryview(f"{self._name}\n".encode() + content(length))]
            self._selector.register(connection, selectors.EVENT_WRITE, lambda c: send(c, left))

        def send(connection: socket.socket, left: list[memoryview]) -> None:
            try:
                left[0] = left[0][connection.send(left[0]) :]
            except OSError:  # an RST: the client says what it missed
                self._selector.unregister(connection)
                connection.close()
                return
            if not left[0]:  # FIN, and what is underway is acknowledged later
                connection.shutdown(socket.SHUT_WR)
                self._selector.modify(connection, selectors.EVENT_READ, self._echo)

        self._on_readable(made, accept)
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

    def _answer_connected(self, server: socket.socket) -> None:
        server.send(f"{self._name} apart ".encode() + server.recv(65536))

    # ---- as a client ----

    def do_connect(
        self,
        address: str,
        port: int,
        source: int = 0,
        mptcp: bool = False,
        ip_options: str = "",
    ) -> list[Any]:
        """Number, own port, and who greeted. `ip_options`: in hexadecimal."""
        made = socket.socket(_family(address), socket.SOCK_STREAM, MPTCP if mptcp else 0)
        made.settimeout(PATIENCE)
        if ip_options:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes.fromhex(ip_options))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(("", source))
            made.connect((address, port))
            greeting = _line(made)
        except BaseException:
            made.close()
            raise
        return [*self._keep(made), greeting]

    def do_connect_quietly(self, address: str, port: int, source: int = 0) -> list[int]:
        """To a quiet listener."""
        made = socket.socket(_family(address), socket.SOCK_STREAM)
        made.settimeout(PATIENCE)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(("", source))
            made.connect((address, port))
        except BaseException:
            made.close()
            raise
        return self._keep(made)

    def do_connect_fast(self, address: str, port: int, words: str) -> list[Any]:
        """As connect, with `words` in the SYN as soon as there is a cookie (RFC 7413)."""
        made = socket.socket(_family(address), socket.SOCK_STREAM)
        made.sendto(words.encode(), socket.MSG_FASTOPEN, (address, port))
        made.settimeout(PATIENCE)
        return [*self._keep(made), _line(made)]

    def do_write(self, number: int, words: str) -> None:
        self._sockets[number].sendall(words.encode())

    def do_read(self, number: int, count: int) -> str:
        """So many bytes, fewer only at the end."""
        read = b""
        while len(read) < count and (more := self._sockets[number].recv(count - len(read))):
            read += more
        return read.decode()

    def do_finish(self, number: int) -> None:
        """Sends FIN: half-closed."""
        self._sockets[number].shutdown(socket.SHUT_WR)

    def do_abort(self, number: int) -> None:
        """Sends RST."""
        _abort(self._sockets.pop(number))

    def do_fetch(self, address: str, port: int, count: int) -> list[str]:
        """Who greeted, of `count` connections one after the other."""
        greetings = []
        for _ in range(count):
            number, _, greeting = self.do_connect(address, port)
            greetings.append(greeting)
            self.do_close(number)
        return greetings

    def do_fetch_on(self, address: str, port: int) -> list[str]:
        """As `fetch`, until the next request. Aborted, so that none stays in TIME_WAIT: there would
        soon be as many as ports, and one bound to such a port cannot be connected again."""
        greetings = []
        while not _is_asked(BREATH / 10):
            number, _, greeting = self.do_connect(address, port)
            greetings.append(greeting)
            self.do_abort(number)
        return greetings

    def do_download(self, address: str, port: int, count: int, length: int) -> dict[str, Any]:
        """So many at once from one that `serve`s: a little from each, round by round, till the
        next request; then all the rest. How many each host served, and what went wrong."""
        downloads = [Download(address, port, content(length)) for _ in range(count)]
        while not select.select([sys.stdin], [], [], PACE)[0]:
            for download in downloads:
                download.read(SLOWLY)
        for download in downloads:
            download.finish()
        served = [download.greeting for download in downloads]
        wrong = [download.wrong for download in downloads if download.wrong]
        return {"served": {name: served.count(name) for name in set(served)}, "wrong": wrong}

    def do_connect_on(self, address: str, port: int) -> list[str]:
        """Begins connections until the next request, and then speaks on each of them: who
        greeted. All are still open at the end."""
        opened = []
        while not select.select([sys.stdin], [], [], PACE / 4)[0]:
            opened.append(self.do_connect(address, port))
        for number, _, greeting in opened:
            if self.do_say(number, greeting) != greeting:
                raise ConnectionError(0, "another answer")
        return [greeting for _, _, greeting in opened]

    def do_say(self, number: int, words: str) -> str:
        """What comes back on a connection."""
        self._sockets[number].sendall(f"{words}\n".encode())
        return _line(self._sockets[number])

    def do_echo(self, number: int, length: int) -> bool:
        """Whether so many random bytes come back as they were; reads while it writes."""
        made = self._sockets[number]
        sent = memoryview(os.urandom(length))
        back, left = bytearray(), sent
        while len(back) < length:
            readable, writable, _ = select.select([made], [made] if left else [], [], PATIENCE)
            if not readable and not writable:
                raise TimeoutError
            if writable:
                left = left[made.send(left[:65536], socket.MSG_DONTWAIT) :]
            if readable:
                back += made.recv(1 << 20)
        return back == sent

    def do_echo_on(self, numbers: list[int], length: int) -> list[int]:
        """On each of these connections `length` random bytes come back as they were, again and
        again, until the next request; how often."""
        rounds = {self._sockets[number]: 0 for number in numbers}
        sent, back = dict.fromkeys(rounds, b""), dict.fromkeys(rounds, b"")

        def begin(made: socket.socket) -> None:
            sent[made], back[made] = os.urandom(length), b""
            made.sendall(sent[made])

        for made in rounds:
            begin(made)
        waiting, asked = set(rounds), False
        while waiting:
            for made in _ready(waiting, asked):
                back[made] += _some(made)
                if not sent[made].startswith(back[made]):
                    raise OSError(errno.EBADMSG, "other bytes came back than were sent")
                if back[made] == sent[made]:
                    rounds[made] += 1
                    waiting.discard(made) if asked else begin(made)
            asked = asked or _is_asked(BREATH)
        return list(rounds.values())

    def do_ask_on(self, address: str, port: int, count: int) -> dict[str, int]:
        """`count` flows of numbered datagrams, each sent when the last was answered, until the next
        request; how many were sent, and how many never answered."""
        flows = [socket.socket(_family(address), socket.SOCK_DGRAM) for _ in range(count)]
        numbers, asked = dict.fromkeys(flows, 0), False
        for made in flows:
            made.connect((address, port))
            made.send(b"0")
        waiting = set(flows)
        with suppress(TimeoutError):
            while waiting:
                for made in _ready(waiting, asked):
                    _take_answer(made, numbers[made])
                    if asked:
                        waiting.discard(made)
                    else:
                        numbers[made] += 1
                        made.send(str(numbers[made]).encode())
                asked = asked or _is_asked(BREATH)
        for made in flows:
            made.close()
        return {"sent": sum(numbers.values()) + count, "lost": len(waiting)}

    def do_ask_udp(
        self,
        address: str,
        port: int,
        count: int = 1,
        source: int = 0,
        length: int = 1,
        whole: bool = False,
    ) -> list[str]:
        """Who answered, of `count` datagrams of `length` bytes from a connected socket each.

        `whole`: the whole answer. Connected: an answer from elsewhere is not received, a
        refusal raises ECONNREFUSED.
        """
        answers = []
        for _ in range(count):
            with socket.socket(_family(address), socket.SOCK_DGRAM) as made:
                made.settimeout(PATIENCE)
                made.bind(("", source))
                made.connect((address, port))
                made.send(b"?" * length)
                answers.append(made.recv(65536).decode())
        return answers if whole else [answer.split()[0] for answer in answers]

    def do_receive(self, number: int) -> dict[str, Any]:
        """The next datagram of a quiet socket."""
        words, origin = self._sockets[number].recvfrom(65536)
        return {"words": words.decode(), "address": origin[0], "port": origin[1]}

    def do_probe(self, number: int, address: str, port: int, ttl: int) -> list[int]:
        """Type and code of the ICMP error that a datagram with this TTL comes back as."""
        made, v6 = self._sockets[number], ":" in address
        level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
        made.setsockopt(level, IPV6_RECVERR if v6 else IP_RECVERR, 1)
        made.setsockopt(level, IPV6_UNICAST_HOPS if v6 else IP_TTL, ttl)
        made.sendto(b"!", (address, port))
        poll = select.poll()
        poll.register(made, 0)
        if not poll.poll(PATIENCE * 1000):
            raise TimeoutError
        told = made.recvmsg(1024, 512, socket.MSG_ERRQUEUE)[1]
        [error] = [data for _, kind, data in told if kind in (IP_RECVERR, IPV6_RECVERR)]
        return list(error[5:7])  # struct sock_extended_err

    def do_ping(self, address: str, length: int = 56) -> str:
        """Who answers an echo request with all that was in it."""
        v6 = ":" in address
        kind = (58, 128, 129) if v6 else (1, 8, 0)
        body = struct.pack("!HH", 4711, 1) + bytes(i % 251 for i in range(length))
        with socket.socket(_family(address), socket.SOCK_RAW, kind[0]) as made:
            made.settimeout(PATIENCE)
            head = struct.pack("!BB", kind[1], 0)
            check = 0 if v6 else _checksum(head + bytes(2) + body)  # IPv6: the kernel's to do
            made.sendto(head + struct.pack("!H", check) + body, (address, 0))
            while True:
                answer, origin = made.recvfrom(65536)
                answer = answer if v6 else answer[(answer[0] & 15) * 4 :]
                if answer[0] == kind[2] and answer[4:] == body:
                    return str(origin[0])

    # ---- on the wire ----

    def do_wire(self, interface: str) -> list[int]:
        """Sees every frame of the interface from now on."""
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
        made.bind((interface, ALL_PROTOCOLS))
        made.settimeout(PATIENCE)
        self._number += 1
        self._sockets[self._number] = made
        return [self._number]

    def do_wire_out(self, interface: str) -> list[int]:
        """Sees none."""
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind((interface, 0))
        self._number += 1
        self._sockets[self._number] = made
        return [self._number]

    def do_send(self, number: int, frame: str) -> None:
        self._sockets[number].send(bytes.fromhex(frame))

    def do_flood(self, number: int, frame: str, count: int) -> None:
        """So many of a TCP/IPv4 frame, each from another client.

        Low half of the source address against the identification, port against
        window: so the checksums stay right.
        """
        made, flooding = self._sockets[number], bytearray.fromhex(frame)
        for i in range(count):
            low, port = i % 65521, i // 7 % 64511 + 1024
            struct.pack_into("!H", flooding, 18, 0xFFFF - low)
            struct.pack_into("!H", flooding, 28, low)
            struct.pack_into("!H", flooding, 34, port)
            struct.pack_into("!H", flooding, 40, 0xFFFF - low)
            struct.pack_into("!H", flooding, 48, 0xFFFF - port)
            made.send(flooding)

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
            _abort(made)
        self._sockets.clear()
        deadline = time.monotonic() + LAST_ACK_SECONDS
        while _is_last_ack_awaited() and time.monotonic() < deadline:
            time.sleep(BREATH)

    def serve(self) -> None:
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            found = [key for key, _ in self._selector.select()]
            # Requests last: what they close must not be ready any more.
            for key in sorted(found, key=lambda key: key.data is None):
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


def _is_asked(within: float = 0) -> bool:
    """Whether there is another request, or one comes."""
    return bool(select.select([sys.stdin], [], [], within)[0])


def _ready(sockets: Collection[socket.socket], asked: bool) -> list[socket.socket]:
    """Those of which something has come; perhaps none, if a request has come instead."""
    requests: list[socket.socket | int] = [] if asked else [0]
    found = select.select([*sockets, *requests], [], [], PATIENCE)[0]
    if not found:
        raise TimeoutError
    return [made for made in found if isinstance(made, socket.socket)]


def _take_answer(made: socket.socket, number: int) -> None:
    answer = made.recv(65536).split()[-1]
    if answer != str(number).encode():
        raise OSError(errno.EBADMSG, f"an answer to {answer!r} instead of {number}")


def _some(made: socket.socket) -> bytes:
    """Raises ConnectionResetError at an end, too, that nobody wanted."""
    read = made.recv(65536)
    if not read:
        raise ConnectionResetError(errno.ECONNRESET, "the other side has closed")
    return read


@lru_cache
def content(length: int) -> bytes:
    """The same in every program."""
    return random.Random(length).randbytes(length)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _is_last_ack_awaited() -> bool:
    """By any socket here: proc(5), /proc/net/tcp; include/net/tcp_states.h."""
    tables = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    return any(line.split()[3] == "09" for lines in tables for line in lines)


def _abort(made: socket.socket) -> None:
    if made.family != socket.AF_PACKET:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


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
