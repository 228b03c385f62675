# SPDX-License-Identifier: Apache-2.0
"""The demo's hands: the `anyport` command, and real programs on the lab's hosts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANYPORT = str(Path(sys.executable).with_name("anyport"))
LAB = "demo"
VIP, VIP6 = "10.77.0.80", "fd77::80"
HOSTS = ("host1", "host2", "host3")
PATIENCE_SECONDS = 15.0


class Failure(Exception):
    """What the demo had to see and did not."""


def anyport(*words: str) -> str:
    done = subprocess.run([ANYPORT, *words], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"anyport {' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def command(name: str, *words: str) -> list[str]:
    return [ANYPORT, "lab", "exec", "--name", LAB, name, "--", *words]


def run(name: str, *words: str, check: bool = True) -> str:
    done = subprocess.run(command(name, *words), capture_output=True, text=True)
    if check and done.returncode:
        raise Failure(f"{name}: {' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def status(name: str, *words: str) -> int:
    return subprocess.run(command(name, *words), capture_output=True).returncode


def start(name: str, *words: str, **pipes: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(command(name, *words), text=True, **pipes)


def noun(*words: str) -> Any:
    """What a noun shows on the first host, as JSON."""
    return json.loads(run("host1", "anyport", *words, "--json"))


def targets(port: int, protocol: str = "tcp", vip: str = VIP) -> set[str]:
    """The hosts that the port table names for a port."""
    return {
        target["host"]
        for row in noun("ports", vip)
        if (row["port"], row["protocol"]) == (port, protocol)
        for target in row["targets"]
    }


def eventually(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"not within {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(0.05)


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise Failure(what)
