# SPDX-License-Identifier: Apache-2.0
"""Which of the maps that a former daemon has pinned this version goes on with (docs/adr/0017).

<pins>/layouts          map -> the number of the layout that it was made with

A number stands for all that a map holds: types, sizes, and what they mean. Who
changes any of that raises it; tests/abi has what it was. Sizes alone would not
do: a packet program that takes one field for another misroutes without a word.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from anyport.errors import KernelError
from anyport.kernel.libbpf import Map, MapType

log = logging.getLogger(__name__)

KEPT: Mapping[str, int] = {
    "definitions": 1,
    "port_words": 1,
    "sockets": 1,
    "bound": 1,
    "handed": 1,
    "settings": 1,
    "pools": 1,
    "vips": 1,
    "fenced": 1,
    "peers": 1,
    "routes": 1,
    "selections": 1,
    "hosts": 1,
    "connections": 1,
    "table_key": 1,
    "tunnel_addresses": 1,
    "tunnel_settings": 1,
}
"""Packets are served by these: with an empty one they would be refused, or lose their way."""

ANEW: Mapping[str, int] = {
    "events": 1,
    "listen_counters": 1,
    "counters": 3,
    "fragments": 1,
    "held_fragments": 1,
    "learnt_mtus": 1,
    "tunnel_counters": 1,
}
"""Figures, and what is learnt or told again: of another layout they begin anew."""

LAYOUTS = {**KEPT, **ANEW}

_NAME = "layouts"
_KEY, _NUMBER = struct.Struct("32s"), struct.Struct("=I")
_MOST = 256


def adopt(pins: Path) -> None:
    """Makes what is pinned there this version's, as far as it is not.

    Raises KernelError, with nothing changed, if that would cost connections.
    Maps of another version that this one does not know are unpinned: left there
    they would be out of date when that version returns. The programs that run
    have theirs until they are replaced.
    """
    have = _read(pins)
    other = [name for name in {**have, **LAYOUTS} if (pins / name).exists()]
    other = [name for name in other if have.get(name, 0) != LAYOUTS.get(name)]
    _refuse(pins, {name: have.get(name, 0) for name in other if name in KEPT})
    for name in other:
        log.warning("pinned map %s is another version's: it begins anew", pins / name)
        (pins / name).unlink()
    if have != LAYOUTS:
        _write(pins, have)


def _refuse(pins: Path, other: Mapping[str, int]) -> None:
    if other:
        named = ", ".join(f"{name} ({number}, not {KEPT[name]})" for name, number in other.items())
        raise KernelError(
            f"pinned maps at {pins} have the layout of another version: {named}; packets go on "
            "under its programs: start that version again, or end them by `anyport detach`"
        )


def _read(pins: Path) -> dict[str, int]:
    """Empty: nothing was pinned there, or by a version without numbers."""
    if not (pins / _NAME).exists():
        return {}
    with closing(Map.open_pinned(pins / _NAME)) as table:
        return {
            _KEY.unpack(key)[0].rstrip(b"\0").decode(): _NUMBER.unpack(value)[0]
            for key, value in table.items()
        }


def _write(pins: Path, have: Mapping[str, int]) -> None:
    with closing(_open(pins / _NAME)) as table:
        for name, number in LAYOUTS.items():
            table.update(_key(name), _NUMBER.pack(number))
        for name in have.keys() - LAYOUTS.keys():
            table.delete(_key(name))


def _open(pin: Path) -> Map:
    if pin.exists():
        return Map.open_pinned(pin)
    table = Map.create(MapType.HASH, _NAME, _KEY.size, _NUMBER.size, _MOST)
    table.pin(pin)
    return table


def _key(name: str) -> bytes:
    return _KEY.pack(name.encode())
