# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from anyport.errors import KernelError
from anyport.kernel.libbpf_api import AttachType, ProgramType, check, ffi, lib
from anyport.kernel.libbpf_map import Map

_XDP_FLAGS_DRV_MODE = 1 << 2  # <linux/if_link.h>


_GROWTH = 2048
"""Bytes that a packet may gain; with less room the kernel refuses the run."""


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
        room = len(data_in) + _GROWTH
        context, out = ffi.new("char[]", ctx_in or 1), ffi.new("char[]", room)
        if ctx_in:
            opts.ctx_in, opts.ctx_size_in = context, len(ctx_in)
        if self.type != ProgramType.SYSCALL:
            buffer = ffi.from_buffer(data_in)
            opts.data_in, opts.data_size_in, opts.repeat = buffer, len(data_in), repeat
            opts.data_out, opts.data_size_out = out, room
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

        A cgroup's links always add to those of others (BPF_F_ALLOW_MULTI). XDP is
        the driver's own: where it has none, the generic one is slower than TC.
        """
        what = f"program {program.name}: attach as {attach_type.name.lower()}"
        opts = ffi.new("struct bpf_link_create_opts *")
        opts.sz = ffi.sizeof("size_t") + 2 * ffi.sizeof("__u32")
        opts.flags = _XDP_FLAGS_DRV_MODE if attach_type is AttachType.XDP else 0
        return cls(check(lib().bpf_link_create(program.fd, target, attach_type, opts), what), what)

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
