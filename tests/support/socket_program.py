# SPDX-License-Identifier: Apache-2.0
"""A program that opens and closes sockets as it is told: `python socket_program.py`.

Reads one JSON object a line, `{"do": ..., ...}`, and answers each with one
line: the result, or `{"error": "EADDRINUSE"}`. It imports nothing of ours, so
that it starts in a few milliseconds.
"""

from __future__ import annotations

import errno
import json
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}

sockets: dict[int, socket.socket] = {}


def make(address: str, protocol: str, port: int, v6only: bool = False) -> socket.socket:
    """Bound, and TCP listens. Shares its port with others that ask for it likewise."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, TYPES[protocol])
    try:
        if port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if v6only:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        if protocol == "tcp":
            made.listen()
    except BaseException:
        made.close()
        raise
    return made


def open_one(number: int, **wanted: Any) -> int:
    """The port that it got."""
    sockets[number] = make(**wanted)
    return int(sockets[number].getsockname()[1])


def open_range(first: int, last: int, **wanted: Any) -> list[int]:
    """One socket a port, by the number of its port; those ports that were refused."""
    refused = []
    for port in range(first, last + 1):
        try:
            sockets[port] = make(port=port, **wanted)
        except OSError:
            refused.append(port)
    return refused


def close(numbers: list[int]) -> None:
    for number in numbers:
        sockets.pop(number).close()


def close_all() -> None:
    close(list(sockets))


def connect(address: str, port: int) -> None:
    socket.create_connection((address, port), timeout=10).close()


def flood(times: int, **wanted: Any) -> None:
    """Two events each: more than the ring buffer holds, if nobody reads it."""
    for _ in range(times):
        make(**wanted).close()


WORDS: dict[str, Callable[..., Any]] = {
    "open": open_one,
    "open_range": open_range,
    "connect": connect,
    "close": close,
    "close_all": close_all,
    "flood": flood,
}


def answer(request: dict[str, Any]) -> Any:
    try:
        return {"result": WORDS[request.pop("do")](**request)}
    except OSError as error:
        return {"error": errno.errorcode[error.errno or 0]}


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
