# SPDX-License-Identifier: Apache-2.0
"""A network namespace and a cgroup of a test's own, entered by the test itself.

Neither has a name outside of the test that could be left behind: the
namespace is unnamed, the cgroup goes with the context manager.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anyport.kernel.netns import current_netns, set_netns

_CLONE_NEWNET = 0x40000000


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def fresh_netns(*addresses: str) -> Iterator[None]:
    """The calling thread in a new namespace; lo is up and has `addresses` besides its own."""
    before = current_netns()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            run("ip", "link", "set", "lo", "up")
            for address in addresses:
                run("ip", "address", "add", address, "dev", "lo")
            yield
        finally:
            set_netns(before)
    finally:
        os.close(before)


@contextmanager
def fresh_cgroup() -> Iterator[Path]:
    """This process in a new cgroup2 directory; what else is in it at the end is killed."""
    mount, before = cgroup2_mount(), _current_cgroup()
    path = Path(tempfile.mkdtemp(prefix="anyport-test-", dir=mount))
    try:
        (path / "cgroup.procs").write_text(str(os.getpid()))
        yield path
    finally:
        (mount / before.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
        _empty(path)
        path.rmdir()


@contextmanager
def fresh_bpffs(path: Path) -> Iterator[Path]:
    path.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "bpf", "bpf", str(path))
    try:
        yield path
    finally:
        run("umount", str(path))


def cgroup2_mount() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            return Path(before.split()[4])
    raise LookupError("no cgroup2 is mounted")


def _current_cgroup() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def _empty(cgroup: Path) -> None:
    """Kills what a test left; a zombie of ours keeps the directory until it is waited for."""
    for pid in map(int, (cgroup / "cgroup.procs").read_text().split()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
