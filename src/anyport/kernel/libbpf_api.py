# SPDX-License-Identifier: Apache-2.0
"""The declarations of Debian's libbpf.so.1 (1.1) that anyport calls, and the kernel's numbers.

Use `anyport.kernel.libbpf`, which wraps them. cffi's ABI mode: nothing is
compiled, so a wheel without a C extension serves every machine.
"""

from __future__ import annotations

import enum
from collections import deque
from functools import cache
from typing import Any

import cffi

from anyport.errors import KernelError


class MapType(enum.IntEnum):
    """enum bpf_map_type, <linux/bpf.h>."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    QUEUE = 22
    STACK = 23
    SK_STORAGE = 24
    RINGBUF = 27


class ProgramType(enum.IntEnum):
    """enum bpf_prog_type, <linux/bpf.h>."""

    SCHED_CLS = 3
    XDP = 6
    CGROUP_SOCK = 9
    SOCK_OPS = 13
    CGROUP_SOCK_ADDR = 18
    TRACING = 26
    SK_LOOKUP = 30
    SYSCALL = 31


class AttachType(enum.IntEnum):
    """enum bpf_attach_type, <linux/bpf.h>; TCX is newer than Debian 12's headers."""

    CGROUP_SOCK_OPS = 3
    CGROUP_INET4_BIND = 8
    CGROUP_INET6_BIND = 9
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    TRACE_ITER = 28
    CGROUP_INET_SOCK_RELEASE = 34
    SK_LOOKUP = 36
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


ffi: Any = cffi.FFI()
ffi.cdef(
    """
    typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64;

    struct bpf_map_info {
        __u32 type; __u32 id; __u32 key_size; __u32 value_size; __u32 max_entries;
        __u32 map_flags; char name[16]; __u8 rest[64];
    };
    struct bpf_link_info {
        __u32 type; __u32 id; __u32 prog_id; __u32 pad;
        union { __u64 cgroup_id; __u32 netns_ino; __u32 ifindex; };
        __u8 rest[64];
    };
    struct bpf_map_create_opts {
        size_t sz; __u32 btf_fd; __u32 btf_key_type_id; __u32 btf_value_type_id;
        __u32 btf_vmlinux_value_type_id; __u32 inner_map_fd; __u32 map_flags; __u64 map_extra;
    };
    struct bpf_test_run_opts {
        size_t sz; const void *data_in; void *data_out; __u32 data_size_in; __u32 data_size_out;
        const void *ctx_in; void *ctx_out; __u32 ctx_size_in; __u32 ctx_size_out;
        __u32 retval; int repeat; __u32 duration; __u32 flags; __u32 cpu; __u32 batch_size;
    };
    struct bpf_link_create_opts { size_t sz; __u32 flags; __u32 iter_info_len; __u8 rest[48]; };
    struct bpf_tc_hook { size_t sz; int ifindex; int attach_point; __u32 parent; };
    struct bpf_tc_opts {
        size_t sz; int prog_fd; __u32 flags; __u32 prog_id; __u32 handle; __u32 priority;
    };
    struct btf_type { __u32 name_off; __u32 info; __u32 size_or_type; };
    struct btf_var_secinfo { __u32 type; __u32 offset; __u32 size; };

    typedef int (*libbpf_print_fn_t)(int level, const char *format, void *arguments);
    libbpf_print_fn_t libbpf_set_print(libbpf_print_fn_t);
    const char *libbpf_version_string(void);
    int libbpf_num_possible_cpus(void);
    int libbpf_probe_bpf_prog_type(int, const void *);
    int libbpf_probe_bpf_helper(int, int, const void *);

    void *bpf_object__open_file(const char *path, const void *opts);
    int bpf_object__load(void *);
    void bpf_object__close(void *);
    void *bpf_object__btf(const void *);
    void *bpf_object__next_map(const void *object, const void *map);
    void *bpf_object__next_program(const void *object, void *program);
    const char *bpf_map__name(const void *);
    int bpf_map__fd(const void *);
    int bpf_map__type(const void *);
    __u32 bpf_map__key_size(const void *);
    __u32 bpf_map__value_size(const void *);
    __u32 bpf_map__max_entries(const void *);
    __u32 bpf_map__map_flags(const void *);
    int bpf_map__set_max_entries(void *, __u32);
    int bpf_map__reuse_fd(void *, int fd);
    int bpf_map__set_pin_path(void *, const char *);
    bool bpf_map__is_internal(const void *);
    void *bpf_map__initial_value(void *, size_t *size);
    const char *bpf_program__name(const void *);
    int bpf_program__fd(const void *);
    int bpf_program__type(const void *);
    int bpf_program__set_autoload(void *, bool);

    int32_t btf__find_by_name_kind(const void *, const char *, __u32 kind);
    const struct btf_type *btf__type_by_id(const void *, __u32 id);
    const char *btf__name_by_offset(const void *, __u32 offset);

    int bpf_map_create(int type, const char *name, __u32 key_size, __u32 value_size,
                       __u32 max_entries, const struct bpf_map_create_opts *);
    int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags);
    int bpf_map_lookup_elem(int fd, const void *key, void *value);
    int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value);
    int bpf_map_delete_elem(int fd, const void *key);
    int bpf_map_get_next_key(int fd, const void *key, void *next);
    int bpf_map_get_fd_by_id(__u32 id);
    int bpf_map_lookup_batch(int fd, void *in, void *out, void *keys, void *values,
                             __u32 *count, const void *opts);
    int bpf_map_update_batch(int fd, const void *keys, const void *values, __u32 *count,
                             const void *opts);
    int bpf_obj_pin(int fd, const char *path);
    int bpf_obj_get(const char *path);
    int bpf_obj_get_info_by_fd(int fd, void *info, __u32 *size);
    int bpf_link_create(int program, int target, int attach_type, const void *opts);
    int bpf_link_update(int link, int program, const void *opts);
    int bpf_link_detach(int link);
    int bpf_iter_create(int link);
    int bpf_prog_test_run_opts(int program, struct bpf_test_run_opts *);
    int bpf_tc_hook_create(struct bpf_tc_hook *);
    int bpf_tc_attach(const struct bpf_tc_hook *, struct bpf_tc_opts *);
    int bpf_tc_detach(const struct bpf_tc_hook *, const struct bpf_tc_opts *);
    int bpf_tc_query(const struct bpf_tc_hook *, struct bpf_tc_opts *);

    typedef int (*ring_buffer_sample_fn)(void *context, void *data, size_t size);
    void *ring_buffer__new(int fd, ring_buffer_sample_fn, void *context, const void *opts);
    void ring_buffer__free(void *);
    int ring_buffer__consume(void *);
    int ring_buffer__epoll_fd(const void *);

    int vsnprintf(char *, size_t, const char *format, void *arguments);
    """.replace(" }", " }")
)

_WARN = 0  # enum libbpf_print_level
_log: deque[str] = deque(maxlen=400)


@cache
def lib() -> Any:
    """libbpf.so.1, opened at the first call. Raises KernelError if it isn't installed."""
    try:
        library = ffi.dlopen("libbpf.so.1")
    except OSError:
        raise KernelError("libbpf.so.1 not found: apt install libbpf1") from None
    library.libbpf_set_print(_print)
    return library


@cache
def _libc() -> Any:
    return ffi.dlopen(None)


def _keep(level: int, format: Any, arguments: Any) -> int:
    if level == _WARN:
        line = ffi.new("char[]", 65536)  # a verifier's log comes as one message
        _libc().vsnprintf(line, 65536, format, arguments)
        _log.extend(text(line).rstrip("\n").splitlines())
    return 0


# A va_list reaches its callee as a pointer on x86-64 and aarch64 alike.
_print = ffi.callback("libbpf_print_fn_t", _keep)


def forget_log() -> None:
    _log.clear()


def last_log(lines: int = 12) -> str:
    """The end of what libbpf (and through it the verifier) said since `forget_log`.

    The dump of what was tried is dropped, the lines with a reason are kept.
    """
    said = [line for line in _log if line.strip() and not line.startswith(("processed ", "-- "))]
    return "\n".join(said[-lines:])


def check(result: int, what: str) -> int:
    """`result`, or KernelError: libbpf 1.x returns -errno."""
    if result < 0:
        raise KernelError(what, -result)
    return result


def text(pointer: Any) -> str:
    value = ffi.string(pointer)
    return value.decode(errors="replace") if isinstance(value, bytes) else value
