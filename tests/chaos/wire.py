# SPDX-License-Identifier: Apache-2.0
"""What the hosts send on the LAN: `-m tests.chaos.wire VIP HISTORY HOST...`, in the lan node.

It sees who forwards packets to the VIP, and who says in ARP that he has it: no daemon is asked.
"""

from __future__ import annotations

import ctypes
import selectors
import socket
import struct
import sys
import time
from pathlib import Path

from tests.chaos.recorder import Recorder

ALL_PROTOCOLS = 3  # ETH_P_ALL
SO_ATTACH_FILTER = 26
SUM_SECONDS = 0.1

# bpf(4): of IPv4 what goes to the VIP, of ARP what speaks for it
_LOAD_HALF, _LOAD_WORD, _EQUAL, _RETURN = 0x28, 0x20, 0x15, 0x06


def only(vip: str) -> list[tuple[int, int, int, int]]:
    [address] = struct.unpack("!I", socket.inet_aton(vip))
    return [
        (_LOAD_HALF, 0, 0, 12),
        (_EQUAL, 0, 2, 0x0800),
        (_LOAD_WORD, 0, 0, 30),
        (_EQUAL, 3, 4, address),
        (_EQUAL, 0, 3, 0x0806),
        (_LOAD_WORD, 0, 0, 28),
        (_EQUAL, 0, 1, address),
        (_RETURN, 0, 0, 64),
        (_RETURN, 0, 0, 0),
    ]


def listen(host: str, vip: str) -> socket.socket:
    """At the bridge's port of the host."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    code = b"".join(struct.pack("=HBBI", *one) for one in only(vip))
    kept = ctypes.create_string_buffer(code)
    program = struct.pack("HP", len(only(vip)), ctypes.addressof(kept))
    made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    made.bind((host, ALL_PROTOCOLS))
    made.setblocking(False)
    return made


class Wire:
    def __init__(self, vip: str, recorder: Recorder, hosts: list[str]) -> None:
        self._tell = recorder.tell
        self._selector = selectors.DefaultSelector()
        self._forwarded: dict[str, tuple[float, int]] = {}
        for host in hosts:
            self._selector.register(listen(host, vip), selectors.EVENT_READ, host)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(SUM_SECONDS):
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj, key.data)
            self._sum_up()

    def _read(self, port: socket.socket, host: str) -> None:
        try:
            frame, origin = port.recvfrom(64)
        except OSError:
            return  # the link went down: it is told once
        if origin[2] == socket.PACKET_OUTGOING:
            return
        if frame[12:14] == b"\x08\x06":
            self._tell("announced", host=host)
            return
        first, count = self._forwarded.get(host, (time.monotonic(), 0))
        self._forwarded[host] = (first, count + 1)

    def _sum_up(self) -> None:
        now = time.monotonic()
        for host, (first, count) in list(self._forwarded.items()):
            if now - first >= SUM_SECONDS:
                self._tell("forwarded", host=host, first=first, count=count)
                del self._forwarded[host]


if __name__ == "__main__":
    Wire(sys.argv[1], Recorder(Path(sys.argv[2])), sys.argv[3:]).run()
