# SPDX-License-Identifier: Apache-2.0
"""Maps, programs, links and objects of BPF, typed; the only callers of libbpf.

Keys and values are bytes in the layout of bpf/abi.h. What the kernel refuses
is a KernelError with its errno; what is merely absent is None or False.
"""

from __future__ import annotations

from anyport.kernel.libbpf_api import AttachType, MapType, ProgramType, ffi, lib, text
from anyport.kernel.libbpf_map import ANY, EXIST, NOEXIST, Map
from anyport.kernel.libbpf_object import Object
from anyport.kernel.libbpf_program import Link, Program, RingBuffer

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


def probe_program_type(type: ProgramType) -> bool:
    """Whether the kernel loads programs of this type."""
    return int(lib().libbpf_probe_bpf_prog_type(type, ffi.NULL)) == 1


def probe_helper(type: ProgramType, helper: int) -> bool:
    """Whether programs of this type may call the helper (BPF_FUNC_*, <linux/bpf.h>)."""
    return int(lib().libbpf_probe_bpf_helper(type, helper, ffi.NULL)) == 1


def libbpf_version() -> str:
    return text(lib().libbpf_version_string())
