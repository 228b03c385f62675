# SPDX-License-Identifier: Apache-2.0
"""A program with many listeners: `python listeners.py tcp|udp ADDRESS FIRST COUNT`.

For each line on standard input it opens them all, or closes them all if they
are open, and prints CLOCK_MONOTONIC of just before.
"""

from __future__ import annotations

import resource
import socket
import sys
import time

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def opened(kind: str, address: str, port: int) -> socket.socket:
    made = socket.socket(type=KINDS[kind])
    made.bind((address, port))
    if kind == "tcp":
        made.listen(1)
    return made


def main(kind: str, address: str, first: int, count: int) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    open_now: list[socket.socket] = []
    for _ in sys.stdin:
        print(time.monotonic(), flush=True)
        if open_now:
            for one in open_now:
                one.close()
            open_now.clear()
        else:
            open_now += [opened(kind, address, port) for port in range(first, first + count)]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
