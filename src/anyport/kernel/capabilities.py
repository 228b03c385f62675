# SPDX-License-Identifier: Apache-2.0
"""What of root's power a process keeps (capabilities(7)); docs/security.md has the reasons."""

from __future__ import annotations

import ctypes
import enum
import os
import struct
from collections.abc import Collection
from pathlib import Path

from anyport.errors import KernelError


class Capability(enum.IntEnum):
    """Of <linux/capability.h>."""

    SETPCAP = 8
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_ADMIN = 21
    PERFMON = 38
    BPF = 39


_VERSION_3 = 0x20080522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_libc = ctypes.CDLL(None, use_errno=True)


def keep_only(wanted: Collection[Capability]) -> None:
    """Of this thread, those that it starts from now on, and what they execute.

    Other threads keep theirs, so call it before there are any. What this process
    does not have it does not get. Raises KernelError.
    """
    # Programs that root executes would otherwise get everything back (capabilities(7)).
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if effective(os.getpid()) >> Capability.SETPCAP & 1:
        _drop_bounding(wanted)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _capset(effective(os.getpid()) & _bits(wanted))


def effective(pid: int) -> int:
    """The effective set of a process or thread: bit n for capability n."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1], 16) for line in status.splitlines() if line[:7] == "CapEff:")


def _drop_bounding(wanted: Collection[Capability]) -> None:
    for number in range(_last() + 1):
        if number not in wanted and _prctl(_PR_CAPBSET_READ, number):
            _prctl(_PR_CAPBSET_DROP, number)


def _capset(bits: int) -> None:
    """Effective and permitted; inheritable is empty."""
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = struct.pack("Ii", _VERSION_3, 0)
    data = struct.pack("6I", low, low, 0, high, high, 0)
    if _libc.capset(header, data):
        raise KernelError("capset", ctypes.get_errno())


def _prctl(option: int, argument: int) -> int:
    result = int(_libc.prctl(option, argument, 0, 0, 0))
    if result < 0:
        raise KernelError(f"prctl {option}", ctypes.get_errno())
    return result


def _bits(capabilities: Collection[Capability]) -> int:
    return sum(1 << number for number in set(capabilities))


def _last() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())
