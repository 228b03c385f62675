# SPDX-License-Identifier: Apache-2.0
"""The maps within the pinned maps of maps, which a former daemon made.

The kernel names them by id, and to open an id takes CAP_SYS_ADMIN. So that the
daemon need not keep it, `hold` opens all of them at the very start.
"""

from __future__ import annotations

import struct
from pathlib import Path

from anyport.kernel.libbpf import Map

_OUTER = ("pools", "routes")
_U32 = struct.Struct("=I")
_held: dict[int, Map] = {}


def hold(pins: Path) -> None:
    """Until they are taken, or `release`."""
    for name in _OUTER:
        if (pins / name).exists():
            outer = Map.open_pinned(pins / name)
            for _, number in outer.items():
                _held.setdefault(_U32.unpack(number)[0], Map.open_id(_U32.unpack(number)[0]))
            outer.close()


def take(number: int) -> Map:
    """The map of that id; the caller closes it. Raises KernelError."""
    held = _held.pop(number, None)
    return held if held is not None else Map.open_id(number)


def release() -> None:
    while _held:
        _held.popitem()[1].close()
