# SPDX-License-Identifier: Apache-2.0
"""The daemon's own directory and socket: private to root, and one daemon's at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from anyport.config import Config
from anyport.errors import AnyportError


def private_directory(path: Path) -> None:
    """Makes it (mode 0700) with its parents. Raises AnyportError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AnyportError(f"{path}: {error.strerror}") from None


def sysctls(config: Config) -> Path:
    """Where the values that ours replaced are kept."""
    return Path(config.daemon.state) / "sysctls.json"


def known_hosts(config: Config) -> Path:
    """Where the distributor keeps which hosts were members."""
    return Path(config.daemon.state) / "hosts.json"


def reserved_ports(config: Config) -> Path:
    """Where the agent keeps which ports it has reserved."""
    return Path(config.daemon.state) / "reserved_ports.json"


def lock(directory: Path) -> int:
    """Holds the directory for this process; the open descriptor. Raises AnyportError if held."""
    path = directory / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = path.read_text().strip() or "unknown"
        os.close(descriptor)
        raise AnyportError(
            f"another daemon (pid {holder}) runs with the state directory {directory}: "
            "give each a daemon.state of its own"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def listen_unix(path: Path) -> socket.socket:
    """A listening socket with mode 0600; a leftover of a dead daemon is replaced.

    Raises AnyportError if a living one answers there: of another state
    directory, or `lock` would have said so.
    """
    private_directory(path.parent)
    _remove_leftover(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        server.bind(os.fspath(path))
    except OSError as error:
        raise AnyportError(f"daemon.socket {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    server.listen(64)
    return server


def _remove_leftover(path: Path) -> None:
    if path.exists() and not path.is_socket():
        raise AnyportError(f"daemon.socket {path}: it is there, and no socket: name another")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog is an answer too (EAGAIN)
        result = probe.connect_ex(os.fspath(path))
    if result in (0, errno.EAGAIN):
        raise AnyportError(
            f"daemon.socket {path}: another daemon answers there: give each one of its own"
        )
    path.unlink(missing_ok=True)
