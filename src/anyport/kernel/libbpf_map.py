# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anyport.errors import KernelError
from anyport.kernel.libbpf_api import MapType, check, ffi, lib, text

ANY, NOEXIST, EXIST = 0, 1, 2  # flags of an update
_PERCPU = {MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH}
_NO_BATCH = {errno.EINVAL, errno.EOPNOTSUPP, 524}  # 524: the kernel's own ENOTSUPP
_BATCH = 4096


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

    def pin(self, path: Path) -> None:
        check(lib().bpf_obj_pin(self.fd, os.fsencode(path)), f"pin map {path}")

    def lookup(self, key: bytes) -> bytes | None:
        return self._get(lib().bpf_map_lookup_elem, self._key(key))

    def lookup_percpu(self, key: bytes) -> list[bytes]:
        """The value on each possible CPU; empty if the key is absent."""
        values = self._get(lib().bpf_map_lookup_elem, self._key(key)) or b""
        return [v[: self.value_size] for v in _split(values, _round8(self.value_size))]

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Raises KernelError: EEXIST and ENOENT as `flags` asks, E2BIG or ENOMEM when full."""
        if len(value) != self.stored_size:
            raise ValueError(f"map {self.name}: a value has {self.stored_size} bytes")
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
        pairs = zip(_split(keys, self.key_size), _split(values, self.stored_size), strict=True)
        return list(pairs)

    def dump(self) -> tuple[bytes, bytes]:
        """Every entry, as all keys and all values end to end; in index order for arrays."""
        parts = list(self.batches())
        return b"".join(keys for keys, _ in parts), b"".join(values for _, values in parts)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """`dump` in parts, each as it is when it is asked for."""
        try:
            yield from self._batches()
        except KernelError as error:
            if error.errno not in _NO_BATCH:
                raise
            yield from self._walk()

    def memory(self) -> mmap.mmap:
        """The values of an array that was made with BPF_F_MMAPABLE, end to end, as they are when
        they are read: each batch of a dump takes as long as its entries are many, empty or not.

        The caller closes it. Raises KernelError.
        """
        try:
            length = self.max_entries * self.value_size
            return mmap.mmap(self.fd, length, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as error:
            raise KernelError(f"map {self.name}: {error.strerror}", error.errno or 0) from None

    def update_batch(self, keys: bytes, values: bytes, count: int) -> None:
        """`count` entries, end to end; not atomic, each entry is."""
        if len(keys) != count * self.key_size or len(values) != count * self.stored_size:
            raise ValueError(f"map {self.name}: {count} entries are not what was given")
        if count == 0:
            return
        done = ffi.new("__u32 *", count)
        result = lib().bpf_map_update_batch(self.fd, keys, values, done, ffi.NULL)
        if -result in _NO_BATCH and done[0] in (0, count):
            pairs = zip(_split(keys, self.key_size), _split(values, self.stored_size), strict=True)
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

    @property
    def stored_size(self) -> int:
        """Bytes of a value as the syscalls copy it: of all CPUs, if there is one for each."""
        if self.type in _PERCPU:
            return _round8(self.value_size) * int(lib().libbpf_num_possible_cpus())
        return self.value_size

    def _get(self, call: Any, key: Any) -> bytes | None:
        value = bytearray(self.stored_size)
        result = call(self.fd, key, ffi.from_buffer(value))
        if result == -errno.ENOENT:
            return None
        check(result, f"map {self.name}: lookup")
        return bytes(value)

    def _batches(self) -> Iterator[tuple[bytes, bytes]]:
        size, start = _BATCH, ffi.NULL
        position, count = ffi.new("char[]", max(self.key_size, 8)), ffi.new("__u32 *")
        while True:
            keys = ffi.new("char[]", size * self.key_size)
            values = ffi.new("char[]", size * self.stored_size)
            count[0] = size
            result = lib().bpf_map_lookup_batch(
                self.fd, start, position, keys, values, count, ffi.NULL
            )
            if result == -errno.ENOSPC:  # one bucket of a hash holds more than `size`
                size *= 2
                continue
            if result not in (0, -errno.ENOENT):
                check(result, f"map {self.name}: dump")
            yield (
                bytes(ffi.buffer(keys, count[0] * self.key_size)),
                bytes(ffi.buffer(values, count[0] * self.stored_size)),
            )
            if result == -errno.ENOENT:
                return
            start = position

    def _walk(self) -> Iterator[tuple[bytes, bytes]]:
        key: Any = ffi.NULL
        following = bytearray(self.key_size)
        while lib().bpf_map_get_next_key(self.fd, key, ffi.from_buffer(following)) == 0:
            key = bytes(following)
            value = self.lookup(key)
            if value is not None:
                yield key, value


def _split(data: bytes, size: int) -> Iterator[bytes]:
    return (chunk for (chunk,) in struct.iter_unpack(f"{size}s", data))


def _round8(size: int) -> int:
    return (size + 7) // 8 * 8
