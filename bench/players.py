# SPDX-License-Identifier: Apache-2.0
"""What programs do in a lab's nodes for bench.control: `python players.py ROLE ARGUMENT...`.

Each writes JSON lines; those with something to answer read a line for each.
Times are CLOCK_MONOTONIC in seconds, which all namespaces of a machine share.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import cycle
from typing import Any

GIVE_UP_SECONDS = 10.0
RETRY_SECONDS = 0.0001  # a client that never slept would take a CPU from those it waits for
STRAGGLERS_SECONDS = 0.5


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)


def serve(address: str) -> None:
    """For each port read: listens from now on, and says when that began."""
    listening = []
    for line in sys.stdin:
        listening.append(made := socket.socket())
        made.bind((address, int(line)))
        began = time.monotonic()
        made.listen()
        say(began)


def connect(address: str) -> None:
    """For each port read: says when a connection to it had succeeded; null: it never did."""
    for line in sys.stdin:
        say(_connected(address, int(line)))


def _connected(address: str, port: int) -> float | None:
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < give_up:
        with socket.socket() as made:
            if made.connect_ex((address, port)) == 0:
                return time.monotonic()
        time.sleep(RETRY_SECONDS)
    return None


def churn(address: str, first: str, rate: str) -> None:
    """Opens a listener, closes its oldest, and so on: `rate` changes a second in all, in even
    steps. Each is open for a second, and its port closed for as long.

    At the first line it opens those that are open at a time, at the second (seconds) it begins, at
    the third it closes all. Says each time which ports are open, when the last change was, and how
    late that was (s).
    """
    window = int(rate) // 2  # as many as open in a second
    ports = cycle(range(int(first), int(first) + 2 * window))
    open_now: deque[socket.socket] = deque()
    sys.stdin.readline()
    for _ in range(window):
        open_now.append(_listening(address, next(ports)))
    _say_open(open_now, 0)
    seconds = float(sys.stdin.readline())
    began = time.monotonic()
    for change in range(round(int(rate) * seconds)):
        due = began + change / int(rate)
        if due > (now := time.monotonic()):
            time.sleep(due - now)
        if change % 2 == 0:
            open_now.append(_listening(address, next(ports)))
        else:
            open_now.popleft().close()
    _say_open(open_now, time.monotonic() - began - seconds)
    sys.stdin.readline()
    while open_now:
        open_now.popleft().close()
    _say_open(open_now, 0)


def _listening(address: str, port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen(1)
    return made


def _say_open(sockets: deque[socket.socket], late: float) -> None:
    ports = [one.getsockname()[1] for one in sockets]
    say({"open": ports, "at": time.monotonic(), "late": max(0.0, late)})


def echo(address: str, port: str) -> None:
    """Says null when it is there; then each datagram goes back to where it came from."""
    with socket.socket(type=socket.SOCK_DGRAM) as made:
        made.bind((address, int(port)))
        say(None)
        while True:
            made.sendto(*made.recvfrom(64))


def knock(address: str, port: str, period: str) -> None:
    """A datagram each `period` seconds. Says null at the first answer; at the next line it ends,
    and says for each when it was sent, and when its answer came or null."""
    with socket.socket(type=socket.SOCK_DGRAM) as made:
        knocking = _Knocking(made, (address, int(port)))
        due = time.monotonic()
        while sys.stdin not in knocking.hear(due, sys.stdin):
            if time.monotonic() >= due:
                knocking.knock()
                due += float(period)
        ends = time.monotonic() + STRAGGLERS_SECONDS
        while time.monotonic() < ends:
            knocking.hear(ends)
    say([(at, knocking.answered.get(number)) for number, at in enumerate(knocking.sent)])


class _Knocking:
    def __init__(self, through: socket.socket, at: tuple[str, int]) -> None:
        self._socket, self._at = through, at
        self.sent: list[float] = []
        self.answered: dict[int, float] = {}

    def knock(self) -> None:
        self.sent.append(time.monotonic())
        with suppress(OSError):  # no neighbour has the address just now
            self._socket.sendto(str(len(self.sent) - 1).encode(), self._at)

    def hear(self, until: float, *others: Any) -> list[Any]:
        """Waits for one answer or one of `others`, till `until`; what came."""
        patience = max(0.0, until - time.monotonic())
        ready = select.select([self._socket, *others], [], [], patience)[0]
        if self._socket in ready:
            number = int(self._socket.recv(64))
            if not self.answered:
                say(None)
            self.answered.setdefault(number, time.monotonic())
        return ready


ROLES: Mapping[str, Callable[..., None]] = {
    role.__name__: role for role in (serve, connect, churn, echo, knock)
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
