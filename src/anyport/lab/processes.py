# SPDX-License-Identifier: Apache-2.0
"""Programs in a node: started in its namespace and cgroup, and ended with the cgroup."""

from __future__ import annotations

import contextlib
import os
import select
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from anyport.errors import AnyportError
from anyport.lab.node import Node

_KILL_SECONDS = 10.0

# nsenter, not `ip netns exec`: that one would hide /sys/fs/cgroup.
_JOIN_CGROUP = 'echo $$ >"$0" && exec "$@"'


def scripts() -> Path:
    """Where this very anyport's command is."""
    return Path(sysconfig.get_path("scripts"))


def argv(node: Node, command: Sequence[str]) -> list[str]:
    """What to execute so that `command` runs in the node, in the same process (execve(2))."""
    namespace, cgroup = f"/run/netns/{node.namespace}", f"{node.cgroup}/cgroup.procs"
    return ["nsenter", f"--net={namespace}", "sh", "-c", _JOIN_CGROUP, cgroup, *command]


def environment(node: Node) -> dict[str, str]:
    """This process's, with this anyport on the PATH; on a host, with its configuration."""
    found = {name: value for name, value in os.environ.items() if name != "ANYPORT_CONFIG"}
    found["PATH"] = f"{scripts()}:{found.get('PATH', os.defpath)}"
    if node.is_host:
        found["ANYPORT_CONFIG"] = str(node.config)
    return found


def members(cgroup: Path) -> set[int]:
    """Pids in the cgroup; empty if it is gone."""
    try:
        return {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()}
    except FileNotFoundError:
        return set()


def end_cgroup(cgroup: Path) -> None:
    """Kills all within, and removes it with its children. Absent: success."""
    deadline = time.monotonic() + _KILL_SECONDS
    while cgroup.exists():
        (cgroup / "cgroup.kill").write_text("1")
        _await_empty(cgroup, deadline)
        with contextlib.suppress(OSError):  # EBUSY: a starting program joined just now; again
            for directory in sorted((p for p in cgroup.rglob("*") if p.is_dir()), reverse=True):
                directory.rmdir()
            cgroup.rmdir()


def _await_empty(cgroup: Path, deadline: float) -> None:
    """cgroup.events tells each change of `populated` by POLLPRI (cgroup-v2.rst)."""
    with open(cgroup / "cgroup.events") as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            left = deadline - time.monotonic()
            if left < 0:
                raise AnyportError(f"processes in {cgroup} do not die")
            poll.poll(left * 1000)
            events.seek(0)


def end(pid: int, signal: int) -> None:
    """Sends it, and waits until the process is gone. Raises ProcessLookupError if it was."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal)
        if not select.select([descriptor], [], [], _KILL_SECONDS)[0]:
            raise AnyportError(f"process {pid} did not end by signal {signal}")
    finally:
        os.close(descriptor)
