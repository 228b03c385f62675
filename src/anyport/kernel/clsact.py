# SPDX-License-Identifier: Apache-2.0
"""TC on kernels before 6.6, which have no TCX: clsact filters.

They are no links: each stays until `detach` or the interface goes, is replaced in
place rather than adopted, and acts in the caller's network namespace.
"""

from __future__ import annotations

import enum
import errno
from typing import Any

from anyport.kernel.libbpf import Program
from anyport.kernel.libbpf_api import check, ffi, lib

_REPLACE = 1  # BPF_TC_F_REPLACE
_PRIORITY = 1
_HANDLE = 0x616E7970  # a number of our own: another's filter of this priority is left alone
_ABSENT = {errno.ENOENT, errno.EINVAL, errno.ENODEV}


class Filter(enum.Enum):
    """(enum bpf_tc_attach_point, handle): of one priority; the lower handle sees a packet first."""

    DISTRIBUTE = (1, _HANDLE)
    DECAPSULATE = (1, _HANDLE + 1)
    ANNOUNCE = (2, _HANDLE)


def attach(program: Program, interface_index: int, filter: Filter = Filter.DISTRIBUTE) -> None:
    """Adds the filter, or puts `program` in the place of the one there is."""
    hook = _hook(interface_index, filter)
    created = lib().bpf_tc_hook_create(hook)
    if created != -errno.EEXIST:
        check(created, f"interface {interface_index}: clsact")
    opts = _opts(filter)
    opts.prog_fd, opts.flags = program.fd, _REPLACE
    check(lib().bpf_tc_attach(hook, opts), f"interface {interface_index}: attach {program.name}")


def detach(interface_index: int, filter: Filter = Filter.DISTRIBUTE) -> None:
    """Removes the filter. Absent: success."""
    result = lib().bpf_tc_detach(_hook(interface_index, filter), _opts(filter))
    if -result not in _ABSENT:
        check(result, f"interface {interface_index}: detach")


def attached(interface_index: int, filter: Filter = Filter.DISTRIBUTE) -> bool:
    """Whether there is such a filter: another may have taken it off, or replaced the interface."""
    result = lib().bpf_tc_query(_hook(interface_index, filter), _opts(filter))
    if -result not in _ABSENT:
        check(result, f"interface {interface_index}: filters")
    return bool(result == 0)


def _hook(interface_index: int, filter: Filter) -> Any:
    hook = ffi.new("struct bpf_tc_hook *")
    hook.sz, hook.ifindex, hook.attach_point = ffi.sizeof(hook[0]), interface_index, filter.value[0]
    return hook


def _opts(filter: Filter) -> Any:
    opts = ffi.new("struct bpf_tc_opts *")
    opts.sz, opts.handle, opts.priority = ffi.sizeof(opts[0]), filter.value[1], _PRIORITY
    return opts
