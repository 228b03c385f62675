# SPDX-License-Identifier: Apache-2.0
"""Attaching at an interface's TC hooks: by TCX, or by clsact where the kernel has no TCX."""

from __future__ import annotations

import errno
from pathlib import Path

from anyport.errors import KernelError
from anyport.kernel import clsact, loader
from anyport.kernel.clsact import Filter
from anyport.kernel.libbpf import AttachType, Program

_ATTACH_TYPES = {
    Filter.DISTRIBUTE: AttachType.TCX_INGRESS,
    Filter.DECAPSULATE: AttachType.TCX_INGRESS,
    Filter.ANNOUNCE: AttachType.TCX_EGRESS,
}


def attach(program: Program, interface_index: int, filter: Filter, pin: Path) -> None:
    """Pinned at `pin`, and adopted if it is there already. Raises KernelError."""
    try:
        link = loader.attach(program, interface_index, _ATTACH_TYPES[filter], pin)
    except KernelError as error:
        if error.errno != errno.EINVAL:  # what a kernel says that knows no TCX
            raise
        clsact.attach(program, interface_index, filter)
    else:
        link.close()  # the pin holds it


def detach(interface_index: int, filter: Filter, pin: Path) -> None:
    """By either way. Absent: success."""
    loader.detach(pin)
    clsact.detach(interface_index, filter)


def attached(interface_index: int, filter: Filter, pin: Path) -> bool:
    """Whether it is still there, by either way: another may have replaced the interface."""
    if pin.exists():
        return loader.target_of(pin) == interface_index
    return clsact.attached(interface_index, filter)
