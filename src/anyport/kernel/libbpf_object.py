# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from anyport.errors import KernelError
from anyport.kernel.libbpf_api import MapType, check, ffi, forget_log, last_log, lib, text
from anyport.kernel.libbpf_map import Map
from anyport.kernel.libbpf_program import Program

_BTF_KIND_DATASEC = 15


class Object:
    """A compiled BPF object: `open`, then `load`, then its maps and programs."""

    def __init__(self, pointer: Any, path: Path) -> None:
        self._pointer = pointer
        self._path = path
        # As compiled: libbpf renames a map that is reused.
        self._maps = _each(lib().bpf_object__next_map, pointer, lib().bpf_map__name)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        rodata: Mapping[str, int] | None = None,
        max_entries: Mapping[str, int] | None = None,
        pins: Path | None = None,
        pinned: Collection[str] | None = None,
        reused: Mapping[str, Map] | None = None,
        skip_programs: Collection[str] = (),
    ) -> Object:
        """Opens `path` and sets what has to be set before `load`.

        `rodata`: values of `const volatile` variables. `pins`: each map that is
        not internal (or, given `pinned`, each of these) is adopted from
        `pins/<name>` if it is there and pinned there if not. `reused`: maps that
        take the place of the object's. `skip_programs`: not to be loaded. Raises
        KernelError, by name, for a pinned map of another layout and for anything
        that is not in the object.
        """
        forget_log()
        pointer = lib().bpf_object__open_file(os.fsencode(path), ffi.NULL)
        if pointer == ffi.NULL:
            raise KernelError(f"{path}: {last_log()}", ffi.errno)
        self = cls(pointer, path)
        try:
            self._set_rodata(rodata or {})
            for name, entries in (max_entries or {}).items():
                lib().bpf_map__set_max_entries(self._map(name), entries)
            if pins is not None:
                self._set_pins(pins, pinned)
            for name, map in (reused or {}).items():
                check(lib().bpf_map__reuse_fd(self._map(name), map.fd), f"map {name}: reuse")
            for name in skip_programs:
                lib().bpf_program__set_autoload(self._program(name), False)
        except BaseException:
            self.close()
            raise
        return self

    def load(self) -> Object:
        """Raises KernelError with the verifier's last lines."""
        forget_log()
        result = lib().bpf_object__load(self._pointer)
        if result < 0:
            raise KernelError(f"{self._path.name} does not load: {last_log()}", -result)
        return self

    def map(self, name: str) -> Map:
        return Map(int(lib().bpf_map__fd(self._map(name))), owned=False)

    def program(self, name: str) -> Program:
        pointer = self._program(name)
        fd = check(lib().bpf_program__fd(pointer), f"program {name} is not loaded")
        return Program(name, fd, int(lib().bpf_program__type(pointer)))

    def programs(self) -> list[str]:
        return list(_each(lib().bpf_object__next_program, self._pointer, lib().bpf_program__name))

    def close(self) -> None:
        """Its maps and programs end here, unless they are pinned or attached."""
        if self._pointer is not None:
            lib().bpf_object__close(self._pointer)
            self._pointer = None

    def _map(self, name: str) -> Any:
        return self._maps[name] if name in self._maps else self._absent("map", name)

    def _program(self, name: str) -> Any:
        found = _each(lib().bpf_object__next_program, self._pointer, lib().bpf_program__name)
        return found[name] if name in found else self._absent("program", name)

    def _absent(self, noun: str, name: str) -> Any:
        raise KernelError(f"{self._path.name} has no {noun} {name}", errno.ENOENT)

    def _set_pins(self, pins: Path, pinned: Collection[str] | None) -> None:
        for name, pointer in self._maps.items():
            internal = lib().bpf_map__is_internal(pointer)
            if (name in pinned) if pinned is not None else not internal:
                _require_layout(pointer, name, pins / name)
                path = os.fsencode(pins / name)
                check(lib().bpf_map__set_pin_path(pointer, path), f"map {name}: pin")

    def _set_rodata(self, values: Mapping[str, int]) -> None:
        if not values:
            return
        variables = dict(self._variables(".rodata"))
        for name, value in values.items():
            if name not in variables:
                self._absent("constant", name)
            offset, length = variables[name]
            data = value.to_bytes(length, "little", signed=value < 0)
            ffi.memmove(self._rodata() + offset, data, length)

    def _rodata(self) -> Any:
        """The section's initial value, a char pointer."""
        section = next(map for name, map in self._maps.items() if name.endswith(".rodata"))
        return ffi.cast("char *", lib().bpf_map__initial_value(section, ffi.new("size_t *")))

    def _variables(self, section: str) -> Iterator[tuple[str, tuple[int, int]]]:
        """Name, (offset, size) of each variable of a data section, from BTF."""
        btf = lib().bpf_object__btf(self._pointer)
        number = lib().btf__find_by_name_kind(btf, section.encode(), _BTF_KIND_DATASEC)
        if number < 0:
            return
        datasec = lib().btf__type_by_id(btf, number)
        entries = ffi.cast("struct btf_var_secinfo *", datasec + 1)
        for i in range(datasec.info & 0xFFFF):
            variable = lib().btf__type_by_id(btf, entries[i].type)
            name = text(lib().btf__name_by_offset(btf, variable.name_off))
            yield name, (entries[i].offset, entries[i].size)


def _require_layout(pointer: Any, name: str, path: Path) -> None:
    """libbpf would only say "parameter mismatch"."""
    if not path.exists():
        return
    pinned = Map.open_pinned(path)
    try:
        wanted = {
            "type": lib().bpf_map__type(pointer),
            "key_size": lib().bpf_map__key_size(pointer),
            "value_size": lib().bpf_map__value_size(pointer),
            "max_entries": lib().bpf_map__max_entries(pointer),
            "flags": lib().bpf_map__map_flags(pointer),
        }
        for field, want in wanted.items():
            have = getattr(pinned, field)
            if have != want and not (want == 0 and pinned.type == MapType.RINGBUF):
                raise KernelError(
                    f"pinned map {path} has {field} {have}, this version of {name} needs {want}: "
                    f"it is another version's; `anyport detach` removes it, and what is attached"
                )
    finally:
        pinned.close()


def _each(following: Any, owner: Any, name: Any) -> dict[str, Any]:
    found, pointer = {}, following(owner, ffi.NULL)
    while pointer != ffi.NULL:
        found[text(name(pointer))] = pointer
        pointer = following(owner, pointer)
    return found
