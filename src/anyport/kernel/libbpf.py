# SPDX-License-Identifier: Apache-2.0
"""Maps, programs, links and objects of BPF, typed; the only callers of libbpf.

Keys and values are bytes in the layout of bpf/abi.h. What the kernel refuses
is a KernelError with its errno; what is merely absent is None or False.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from anyport.errors import KernelError
from anyport.kernel.libbpf_api import (
    AttachType,
    MapType,
    ProgramType,
    check,
    ffi,
    forget_log,
    last_log,
    lib,
    text,
)

__all__ = [
    "ANY",
    "EXIST",
    "NOEXIST",
    "AttachType",
    "Link",
    "Map",
    "MapType",
    "Object",
    "Program",
    "ProgramType",
    "RingBuffer",
    "libbpf_version",
    "probe_helper",
    "probe_program_type",
]

ANY, NOEXIST, EXIST = 0, 1, 2  # flags of an update
_PERCPU = {MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH}
_KEYLESS = {MapType.QUEUE, MapType.STACK}
_NO_BATCH = {errno.EINVAL, errno.EOPNOTSUPP, 524}  # 524: the kernel's own ENOTSUPP
_BATCH = 4096
_BTF_KIND_DATASEC = 15


class Map:
    """A BPF map by its file descriptor, which `close` gives back unless an Object owns it."""

    def __init__(self, fd: int, owned: bool = True) -> None:
        info = ffi.new("struct bpf_map_info *")
        size = ffi.new("__u32 *", ffi.sizeof("struct bpf_map_info"))
        check(lib().bpf_obj_get_info_by_fd(fd, info, size), f"map of fd {fd}")
        self.fd = fd
        self.id = int(info.id)
        self.name = text(info.name)
        self.type = int(info.type)
        self.key_size = int(info.key_size)
        self.value_size = int(info.value_size)
        self.max_entries = int(info.max_entries)
        self.flags = int(info.map_flags)
        self._owned = owned

    @classmethod
    def open_pinned(cls, path: Path) -> Map:
        return cls(check(lib().bpf_obj_get(os.fsencode(path)), f"pinned map {path}"))

    @classmethod
    def open_id(cls, number: int) -> Map:
        """By id: what a lookup in a map of maps gives."""
        return cls(check(lib().bpf_map_get_fd_by_id(number), f"map of id {number}"))

    @classmethod
    def create(
        cls,
        type: MapType,
        name: str,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
    ) -> Map:
        opts = ffi.new("struct bpf_map_create_opts *")
        opts.sz, opts.map_flags = ffi.sizeof(opts[0]), flags
        fd = lib().bpf_map_create(type, name.encode(), key_size, value_size, max_entries, opts)
        return cls(check(fd, f"map {name}: create"))

    def lookup(self, key: bytes) -> bytes | None:
        return self._get(lib().bpf_map_lookup_elem, self._key(key))

    def lookup_percpu(self, key: bytes) -> list[bytes]:
        """The value on each possible CPU; empty if the key is absent."""
        values = self._get(lib().bpf_map_lookup_elem, self._key(key)) or b""
        return [v[: self.value_size] for v in _split(values, _round8(self.value_size))]

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Raises KernelError: EEXIST and ENOENT as `flags` asks, E2BIG or ENOMEM when full."""
        if len(value) != self._stored_size():
            raise ValueError(f"map {self.name}: a value has {self._stored_size()} bytes")
        result = lib().bpf_map_update_elem(self.fd, self._key(key), value, flags)
        check(result, f"map {self.name}: update")

    def delete(self, key: bytes) -> bool:
        """False: it was absent."""
        result = lib().bpf_map_delete_elem(self.fd, self._key(key))
        return result != -errno.ENOENT and check(result, f"map {self.name}: delete") == 0

    def push(self, value: bytes) -> None:
        """Queue and stack. Raises KernelError (E2BIG) when full."""
        self.update(b"", value)

    def pop(self) -> bytes | None:
        """Queue and stack; None: empty."""
        return self._get(lib().bpf_map_lookup_and_delete_elem, ffi.NULL)

    def items(self) -> list[tuple[bytes, bytes]]:
        """Every entry; while others write, each at most seen once or missed (hash maps)."""
        keys, values = self.dump()
        pairs = zip(_split(keys, self.key_size), _split(values, self._stored_size()), strict=True)
        return list(pairs)

    def dump(self) -> tuple[bytes, bytes]:
        """Every entry, as all keys and all values end to end; in index order for arrays."""
        try:
            return self._dump_batches()
        except KernelError as error:
            if error.errno not in _NO_BATCH:
                raise
        found = list(self._walk())
        return b"".join(k for k, _ in found), b"".join(v for _, v in found)

    def update_batch(self, keys: bytes, values: bytes, count: int) -> None:
        """`count` entries, end to end; not atomic, each entry is."""
        if len(keys) != count * self.key_size or len(values) != count * self._stored_size():
            raise ValueError(f"map {self.name}: {count} entries are not what was given")
        if count == 0:
            return
        done = ffi.new("__u32 *", count)
        result = lib().bpf_map_update_batch(self.fd, keys, values, done, ffi.NULL)
        if -result in _NO_BATCH and done[0] in (0, count):
            pairs = zip(
                _split(keys, self.key_size), _split(values, self._stored_size()), strict=True
            )
            for key, value in pairs:
                self.update(key, value)
        else:
            check(result, f"map {self.name}: update of {count} entries")

    def close(self) -> None:
        if self._owned:
            os.close(self.fd)
            self._owned = False

    def _key(self, key: bytes) -> Any:
        if len(key) != self.key_size:
            raise ValueError(f"map {self.name}: a key has {self.key_size} bytes")
        return key if self.key_size else ffi.NULL

    def _stored_size(self) -> int:
        """Bytes of a value as the syscalls copy it."""
        if self.type in _PERCPU:
            return _round8(self.value_size) * int(lib().libbpf_num_possible_cpus())
        return self.value_size

    def _get(self, call: Any, key: Any) -> bytes | None:
        value = bytearray(self._stored_size())
        result = call(self.fd, key, ffi.from_buffer(value))
        if result == -errno.ENOENT:
            return None
        check(result, f"map {self.name}: lookup")
        return bytes(value)

    def _dump_batches(self) -> tuple[bytes, bytes]:
        keys, values, size = bytearray(), bytearray(), _BATCH
        position, count = ffi.new("char[]", max(self.key_size, 8)), ffi.new("__u32 *")
        start = ffi.NULL
        while True:
            some_keys, some_values = (
                ffi.new("char[]", size * self.key_size),
                ffi.new("char[]", size * self._stored_size()),
            )
            count[0] = size
            result = lib().bpf_map_lookup_batch(
                self.fd, start, position, some_keys, some_values, count, ffi.NULL
            )
            if result == -errno.ENOSPC:  # one bucket of a hash holds more than `size`
                size *= 2
                continue
            if result not in (0, -errno.ENOENT):
                check(result, f"map {self.name}: dump")
            keys += ffi.buffer(some_keys, count[0] * self.key_size)
            values += ffi.buffer(some_values, count[0] * self._stored_size())
            if result == -errno.ENOENT:
                return bytes(keys), bytes(values)
            start = position

    def _walk(self) -> Iterator[tuple[bytes, bytes]]:
        key: Any = ffi.NULL
        following = bytearray(self.key_size)
        while lib().bpf_map_get_next_key(self.fd, key, ffi.from_buffer(following)) == 0:
            key = bytes(following)
            value = self.lookup(key)
            if value is not None:
                yield key, value


class Program:
    """A loaded program; its Object owns the file descriptor."""

    def __init__(self, name: str, fd: int, type: int) -> None:
        self.name = name
        self.fd = fd
        self.type = type

    def test_run(
        self, data_in: bytes = b"", ctx_in: bytes = b"", repeat: int = 1
    ) -> tuple[int, bytes, bytes, int]:
        """BPF_PROG_RUN: (return value, data out, context out, nanoseconds).

        A SEC("syscall") program takes its context alone, once, and changes it in place.
        """
        opts = ffi.new("struct bpf_test_run_opts *")
        opts.sz = ffi.sizeof(opts[0])
        context, out = ffi.new("char[]", ctx_in or 1), ffi.new("char[]", len(data_in) + 512)
        if ctx_in:
            opts.ctx_in, opts.ctx_size_in = context, len(ctx_in)
        if self.type != ProgramType.SYSCALL:
            buffer = ffi.from_buffer(data_in)
            opts.data_in, opts.data_size_in, opts.repeat = buffer, len(data_in), repeat
            opts.data_out, opts.data_size_out = out, len(data_in) + 512
            if ctx_in:
                opts.ctx_out, opts.ctx_size_out = context, len(ctx_in)
        check(lib().bpf_prog_test_run_opts(self.fd, opts), f"program {self.name}: run")
        return (
            int(opts.retval),
            bytes(ffi.buffer(out, opts.data_size_out)),
            bytes(ffi.buffer(context, len(ctx_in))),
            int(opts.duration),
        )


class Link:
    """An attachment that lives as long as its descriptor or its pin."""

    def __init__(self, fd: int, what: str) -> None:
        self.fd = fd
        self._what = what

    @classmethod
    def create(cls, program: Program, target: int, attach_type: AttachType) -> Link:
        """`target`: fd of a cgroup or network namespace, an interface index, or 0 (iterators).

        A cgroup's links always add to those of others (BPF_F_ALLOW_MULTI).
        """
        what = f"program {program.name}: attach as {attach_type.name.lower()}"
        return cls(
            check(lib().bpf_link_create(program.fd, target, attach_type, ffi.NULL), what), what
        )

    @classmethod
    def open_pinned(cls, path: Path) -> Link:
        what = f"pinned link {path}"
        return cls(check(lib().bpf_obj_get(os.fsencode(path)), what), what)

    @property
    def target(self) -> int:
        """Cgroup id (its inode), network namespace inode, or interface index; 0: detached."""
        info = ffi.new("struct bpf_link_info *")
        size = ffi.new("__u32 *", ffi.sizeof("struct bpf_link_info"))
        check(lib().bpf_obj_get_info_by_fd(self.fd, info, size), self._what)
        return int(info.cgroup_id if info.type == 3 else info.ifindex)  # 3: BPF_LINK_TYPE_CGROUP

    def pin(self, path: Path) -> None:
        check(lib().bpf_obj_pin(self.fd, os.fsencode(path)), f"pin link {path}")

    def update(self, program: Program) -> None:
        """From one program to another between two packets; none meets no program."""
        check(lib().bpf_link_update(self.fd, program.fd, ffi.NULL), f"{self._what}: update")

    def detach(self) -> None:
        """Now, whoever else holds or pins it."""
        check(lib().bpf_link_detach(self.fd), f"{self._what}: detach")

    def read(self, size: int = -1) -> bytes:
        """An iterator's: runs it until it wrote `size` bytes, or to its end; what it wrote."""
        fd = check(lib().bpf_iter_create(self.fd), f"{self._what}: iterate")
        with open(fd, "rb", buffering=0) as stream:
            return stream.read(size)

    def close(self) -> None:
        """Detaches, unless it is pinned."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Object:
    """A compiled BPF object: `open`, then `load`, then its maps and programs."""

    def __init__(self, pointer: Any, path: Path) -> None:
        self._pointer = pointer
        self._path = path

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        rodata: Mapping[str, int] | None = None,
        max_entries: Mapping[str, int] | None = None,
        pins: Path | None = None,
        pinned: Collection[str] | None = None,
        skip_programs: Collection[str] = (),
    ) -> Object:
        """Opens `path` and sets what has to be set before `load`.

        `rodata`: values of `const volatile` variables. `pins`: each map that is
        not internal (or, given `pinned`, each of these) is adopted from
        `pins/<name>` if it is there and pinned there if not. `skip_programs`:
        not to be loaded. Raises KernelError, by name, for a pinned map of
        another layout and for anything that is not in the object.
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
        return self._maps()[name] if name in self._maps() else self._absent("map", name)

    def _program(self, name: str) -> Any:
        found = _each(lib().bpf_object__next_program, self._pointer, lib().bpf_program__name)
        return found[name] if name in found else self._absent("program", name)

    def _maps(self) -> dict[str, Any]:
        return _each(lib().bpf_object__next_map, self._pointer, lib().bpf_map__name)

    def _absent(self, noun: str, name: str) -> Any:
        raise KernelError(f"{self._path.name} has no {noun} {name}", errno.ENOENT)

    def _set_pins(self, pins: Path, pinned: Collection[str] | None) -> None:
        for name, pointer in self._maps().items():
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
        section = next(map for name, map in self._maps().items() if name.endswith(".rodata"))
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


class RingBuffer:
    """The consuming end of a ring buffer map. One consumer at a time."""

    def __init__(self, map: Map) -> None:
        self._records: list[bytes] = []

        def take(context: Any, data: Any, size: int) -> int:
            self._records.append(bytes(ffi.buffer(data, size)))
            return 0

        self._callback = ffi.callback("ring_buffer_sample_fn", take)
        self._pointer = lib().ring_buffer__new(map.fd, self._callback, ffi.NULL, ffi.NULL)
        if self._pointer == ffi.NULL:
            raise KernelError(f"ring buffer {map.name}", ffi.errno)

    def fileno(self) -> int:
        """Readable while records wait."""
        return int(lib().ring_buffer__epoll_fd(self._pointer))

    def consume(self) -> list[bytes]:
        """Every record that waits, oldest first; never blocks."""
        check(lib().ring_buffer__consume(self._pointer), "ring buffer: consume")
        records = self._records[:]
        self._records.clear()
        return records

    def close(self) -> None:
        if self._pointer is not None:
            lib().ring_buffer__free(self._pointer)
            self._pointer = None


def probe_program_type(type: ProgramType) -> bool:
    """Whether the kernel loads programs of this type."""
    return int(lib().libbpf_probe_bpf_prog_type(type, ffi.NULL)) == 1


def probe_helper(type: ProgramType, helper: int) -> bool:
    """Whether programs of this type may call the helper (BPF_FUNC_*, <linux/bpf.h>)."""
    return int(lib().libbpf_probe_bpf_helper(type, helper, ffi.NULL)) == 1


def libbpf_version() -> str:
    return text(lib().libbpf_version_string())


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
        }
        for field, want in wanted.items():
            have = getattr(pinned, field)
            if have != want and not (want == 0 and pinned.type == MapType.RINGBUF):
                raise KernelError(
                    f"pinned map {path} has {field} {have}, this version of {name} needs {want}: "
                    f"it is another version's; remove it"
                )
    finally:
        pinned.close()


def _each(following: Any, owner: Any, name: Any) -> dict[str, Any]:
    found, pointer = {}, following(owner, ffi.NULL)
    while pointer != ffi.NULL:
        found[text(name(pointer))] = pointer
        pointer = following(owner, pointer)
    return found


def _split(data: bytes, size: int) -> Iterator[bytes]:
    return (chunk for (chunk,) in struct.iter_unpack(f"{size}s", data))


def _round8(size: int) -> int:
    return (size + 7) // 8 * 8
