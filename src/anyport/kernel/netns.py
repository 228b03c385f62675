# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, as the calling thread sees them (network_namespaces(7))."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anyport.errors import KernelError

_SO_NETNS_COOKIE = 71  # <asm-generic/socket.h>
_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_CURRENT = Path("/proc/thread-self/ns/net")


def netns_cookie() -> int:
    """The kernel's number for the calling thread's namespace; never used twice until reboot.

    Raises KernelError (ENOPROTOOPT) before Linux 5.14.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            value = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError as error:
            raise KernelError("cookie of the network namespace", error.errno or 0) from error
    (cookie,) = struct.unpack("=Q", value)
    return int(cookie)


def current_netns() -> int:
    """A new descriptor of the calling thread's namespace, for links and setns; close it."""
    return os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)


def set_netns(fd: int) -> None:
    """Moves the calling thread, and it alone, into the namespace of `fd`.

    os.setns is newer than Python 3.11. Raises KernelError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise KernelError("entering a network namespace", ctypes.get_errno())


@contextmanager
def entered(path: Path) -> Iterator[None]:
    """Within the `with`, the calling thread is in the namespace at `path` (/run/netns/NAME)."""
    before = current_netns()
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_netns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            set_netns(before)
    finally:
        os.close(before)
