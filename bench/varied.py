# SPDX-License-Identifier: Apache-2.0
"""Packets of many flows through one program by BPF_PROG_RUN: varied.bpf.c."""

from __future__ import annotations

import enum
import struct

from anyport.kernel.libbpf import Program
from bench.compiled import loaded


class Order(enum.IntEnum):
    """enum order: whose packet comes next."""

    SAME = 0
    IN_TURN = 1
    RANDOM = 2


class Varied:
    """Compiles and loads it. `hook`: `tc` or `xdp`, as the programs measured are. KernelError."""

    def __init__(self, mac: bytes, lines: int = 1, hook: str = "tc") -> None:
        """Frames are for `mac`; `lines` of 64 bytes for `far`: 1 << 20, or it does nothing."""
        self._mac = mac
        self._object = loaded("varied", {"lines": lines})
        suffix = "" if hook == "tc" else f"_{hook}"
        self.empty = self._object.program(f"empty{suffix}")
        self.far = self._object.program("far")
        self._vary = self._object.program(f"vary{suffix}")
        self._plans = self._object.map("plans")
        self._measured = self._object.map(f"measured{suffix}")

    def plan(
        self, order: Order, flows: int, first: int = 0, ports: int = 1, first_port: int = 0
    ) -> None:
        """So many flows, a power of two, from number `first` on; shared out to `ports`."""
        fields = struct.pack("<5I8s", order, flows - 1, first, ports, first_port, self._mac)
        self._plans.update(bytes(4), fields)

    def run(self, program: Program, frame: bytes, packets: int) -> int:
        """`frame` as that of so many packets' flows; nanoseconds for each."""
        self._measured.update(bytes(4), struct.pack("<I", program.fd))
        return self._vary.test_run(frame, repeat=packets)[3]

    def close(self) -> None:
        self._object.close()
