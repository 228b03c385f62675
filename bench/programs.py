# SPDX-License-Identifier: Apache-2.0
"""Programs in a lab's nodes, ended with the benchmark."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from anyport.lab import Lab

PATIENCE_SECONDS = 10.0


def start(stack: ExitStack, lab: Lab, host: str, log: Path, *command: str) -> None:
    """Runs until `stack` is left."""
    output = stack.enter_context(log.open("w"))
    program = lab.popen(
        host, command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )
    stack.callback(_end, program)


def await_listener(lab: Lab, host: str, port: int, logs: Path) -> None:
    """Raises TimeoutError with the end of what is in the directory `logs`."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not lab.run(host, ["ss", "-Hltn", f"sport = :{port}"]).stdout:
        if time.monotonic() > give_up:
            said = "".join(log.read_text()[-300:] for log in logs.glob("*.log"))
            raise TimeoutError(f"{lab.name}: nobody listens on port {port} of {host}: {said}")
        time.sleep(0.02)


def run(lab: Lab, node: str, *command: str) -> str:
    """What it printed. Raises RuntimeError with its complaint."""
    done = lab.run(node, command)
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).strip()[-300:]
        raise RuntimeError(f"{lab.name}, {node}: {' '.join(command)}: {complaint}")
    return done.stdout


def _end(program: subprocess.Popen[Any]) -> None:
    program.terminate()
    try:
        program.wait(timeout=5)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
