# SPDX-License-Identifier: Apache-2.0
"""The whole of anyport in a lab: one host distributes, the other one is the target."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anyport.kernel import abi
from anyport.kernel.libbpf import Map
from anyport.lab import Lab

VIP = "10.77.0.200"
LISTENERS = str(Path(__file__).with_name("listeners.py"))
FIRST_PORT = 10_000
"""Of many listeners: below all port blocks."""
PATIENCE_SECONDS = 60.0

Settings = Mapping[str, Mapping[str, Any]]


class Cluster:
    """Goes down at the end of the `with`."""

    def __init__(self, name: str, settings: Settings | None = None) -> None:
        """`settings`: sections of the hosts' configuration."""
        self.lab = Lab(name)
        self.lab.down()  # of a run that was killed
        self.lab.up(2, [{"vip": VIP}], settings)
        self._programs: list[subprocess.Popen[str]] = []
        (vip,) = self.lab.client("host1").get("status")["vips"]
        self.distributor: str = vip["distributor"]
        self.target = next(host for host in self.lab.hosts if host != self.distributor)
        self._pins = self.lab.node(self.distributor).pins

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.lab.down()
        for program in self._programs:
            program.communicate()

    def listeners(self, first: int, count: int, kind: str = "tcp") -> Listeners:
        """On the VIP at the target, not open yet."""
        program = self.lab.popen(
            self.target,
            [sys.executable, LISTENERS, kind, VIP, str(first), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._programs.append(program)
        return Listeners(self, program, count)

    def routes(self) -> int:
        """Ports that have a route in the distributor's kernel; those of blocks are left out."""
        outer = Map.open_pinned(self._pins / "routes")
        table = Map.open_id(int.from_bytes(outer.lookup(bytes(4)) or b"", "little"))
        try:
            _, rows = table.dump()
        finally:
            table.close()
            outer.close()
        kinds = rows[:: table.value_size]  # the first byte of each
        return kinds.count(abi.RouteKind.DISTRIBUTED)

    def await_routes(self, count: int) -> float:
        """CLOCK_MONOTONIC when there were so many; looked at every few milliseconds."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while self.routes() != count:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{self.routes()} routes instead of {count}")
        return time.monotonic()


class Listeners:
    """listeners.py, running."""

    def __init__(self, cluster: Cluster, program: subprocess.Popen[str], count: int) -> None:
        self._cluster, self._program, self._count = cluster, program, count
        self._open = False

    def toggle(self) -> float:
        """Opens or closes all; seconds until the distributor's kernel has them all, or none."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        before = self._cluster.routes()
        print(file=self._program.stdin, flush=True)
        began = float(self._program.stdout.readline())
        change = -self._count if self._open else self._count
        self._open = not self._open
        return self._cluster.await_routes(before + change) - began
