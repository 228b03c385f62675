# SPDX-License-Identifier: Apache-2.0
"""What anyport needs of the kernel and of this machine: probed, never told by a version."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from anyport.errors import KernelError

_BTF = Path("/sys/kernel/btf/vmlinux")
_MOUNTS = Path("/proc/self/mountinfo")
_STATUS = Path("/proc/self/status")
_MODULES = Path("/lib/modules")
_NEWER = "boot a newer kernel: Debian 12's, or any from 6.1 on with these options set"

# Bits of CapEff, <linux/capability.h>.
_CAPABILITIES = {
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}

# Program type by its name in libbpf.ProgramType, and what needs it.
_PROGRAMS = {
    "SOCK_OPS": "listeners seen (TCP)",
    "CGROUP_SOCK": "listeners seen (UDP)",
    "CGROUP_SOCK_ADDR": "bind(VIP, 0)",
    "SK_LOOKUP": "refusing leaks",
    "SCHED_CLS": "packets",
    "SYSCALL": "reconciling",
}

# (program type, number in <linux/bpf.h>, name, what needs it)
_HELPERS = [
    ("SOCK_OPS", 122, "bpf_get_netns_cookie", "telling this namespace's sockets"),
    ("SOCK_OPS", 131, "bpf_ringbuf_reserve", "events: the ring buffer"),
    ("SOCK_OPS", 164, "bpf_for_each_map_elem", "wildcard listeners"),
    ("CGROUP_SOCK_ADDR", 187, "bpf_set_retval", "refusing binds in leased blocks"),
    ("SCHED_CLS", 152, "bpf_redirect_neigh", "forwarding to a target"),
    ("SCHED_CLS", 160, "bpf_ktime_get_coarse_ns", "the age of connections"),
    ("SCHED_CLS", 181, "bpf_loop", "going through the connection table"),
]

# Name in the kernel's BTF whose presence tells a feature, check, whether it is required, what needs
# it, how to get it. Without the first two shutdown() on a listener older than anyport is seen at
# the next audit only; without the last nothing tells a service older than anyport from a socket
# that merely sent.
_NAMES = [
    ("bpf_iter_tcp", "iter/tcp", False, "adopting listeners", f"{_NEWER}: CONFIG_PROC_FS"),
    (
        "TCP_BPF_SOCK_OPS_CB_FLAGS",
        "sockops flags by setsockopt",
        False,
        "seeing adopted listeners shut down at once",
        "a kernel from 6.12 on",
    ),
    ("bpf_iter_udp", "iter/udp", True, "adopting UDP sockets", f"{_NEWER}: CONFIG_PROC_FS"),
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `found` None: it could not be told. `remedy` is how to get it."""

    check: str
    found: bool | None
    required: bool
    detail: str = ""
    remedy: str = ""

    @property
    def fatal(self) -> bool:
        return self.required and not self.found


def require_kernel() -> None:
    """Raises KernelError that names the first thing missing, and the remedy."""
    for finding in kernel_findings():
        if finding.fatal:
            raise KernelError(f"{finding.check} is missing: {finding.remedy}")


def kernel_findings() -> Iterator[Finding]:
    """What the programs cannot run without, cheapest first."""
    yield _capabilities()
    yield _btf()
    yield _cgroup2()
    yield _libbpf()
    yield from _names()
    yield _traffic_hook()
    yield from _programs()


def host_findings(interface: str | None, pins: Path) -> Iterator[Finding]:
    """What is set up or put right at run time. `interface` None: no configuration to name it."""
    yield _bpffs(pins)
    yield from _sysctls(interface or "all")
    yield _mptcp()
    if interface is not None:
        yield _large_receive_offload(interface)


def cgroup2_mount() -> Path | None:
    """Where the cgroup2 hierarchy is mounted whole; None if it is not."""
    return next(iter(_mounts("cgroup2", root="/")), None)


def is_cgroup2(directory: Path) -> bool:
    """Every directory of a cgroup2 hierarchy has this file, no older one's has it (cgroups(7))."""
    return (directory / "cgroup.controllers").is_file()


def bpffs_mount(path: Path) -> Path | None:
    """The BPF file system that `path` is on or would be; None if there is none."""
    return next((m for m in _mounts("bpf") if path.is_relative_to(m)), None)


def _mounts(kind: str, root: str | None = None) -> list[Path]:
    """proc_pid_mountinfo(5): field 4 is the root within the file system, 5 the mount point."""
    found = []
    for line in _MOUNTS.read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        where = fields.split()
        if rest.split()[0] == kind and root in (None, where[3]):
            found.append(Path(where[4].encode().decode("unicode_escape")))
    return found


def _capabilities() -> Finding:
    effective = next(s for s in _STATUS.read_text().splitlines() if s.startswith("CapEff:"))
    bits = int(effective.split()[1], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not bits >> bit & 1]
    detail = "missing " + ", ".join(missing) if missing else "all that is needed"
    return Finding("capabilities", not missing, True, detail, "run as root")


def _btf() -> Finding:
    remedy = "boot a kernel with CONFIG_DEBUG_INFO_BTF=y (Debian's has it)"
    return Finding("kernel BTF", _BTF.exists(), True, str(_BTF), remedy)


def _cgroup2() -> Finding:
    mount = cgroup2_mount()
    remedy = (
        "mount -t cgroup2 none /sys/fs/cgroup (or boot with systemd.unified_cgroup_hierarchy=1)"
    )
    return Finding("cgroup2", mount is not None, True, str(mount or ""), remedy)


def _libbpf() -> Finding:
    from anyport.kernel import libbpf

    try:
        return Finding("libbpf", True, True, libbpf.libbpf_version())
    except KernelError as error:
        return Finding("libbpf", False, True, str(error), "apt install libbpf1")


def _names() -> Iterator[Finding]:
    names = _kernel_names()
    for name, check, required, use, remedy in _NAMES:
        yield Finding(check, names and names(name), required, use, remedy)


def _traffic_hook() -> Finding:
    """Either will do: TCX, or clsact, which may be a module that is loaded when used."""
    names = _kernel_names()
    if names and names("tcx_link_attach"):
        return Finding("TCX or clsact", True, True, "TCX")
    clsact = bool(names and names("clsact_init")) or _has_module("sch_ingress")
    detail = "clsact" if clsact else ""
    return Finding("TCX or clsact", clsact, True, detail, f"{_NEWER}: CONFIG_NET_SCH_INGRESS")


def _kernel_names() -> Callable[[str], bool] | None:
    """Whether the BTF's string section has a name; None if there is no BTF."""
    try:
        types = _BTF.read_bytes()
    except OSError:
        return None
    return lambda name: b"\0" + name.encode() + b"\0" in types


def _has_module(name: str) -> bool:
    """For the running kernel, installed or built in (depmod(8))."""
    lists = (_MODULES / os.uname().release / f"modules.{kind}" for kind in ("dep", "builtin"))
    return any(f"/{name}.ko" in path.read_text() for path in lists if path.exists())


def _programs() -> Iterator[Finding]:
    if not _capabilities().found or not _libbpf().found:
        return
    from anyport.kernel import libbpf

    for name, use in _PROGRAMS.items():
        loads = libbpf.probe_program_type(libbpf.ProgramType[name])
        yield Finding(f"BPF program {name.lower()}", loads, True, use, _NEWER)
    for name, number, helper, use in _HELPERS:
        has = libbpf.probe_helper(libbpf.ProgramType[name], number)
        yield Finding(f"{helper} in {name.lower()}", has, True, use, _NEWER)


def _bpffs(pins: Path) -> Finding:
    mount = bpffs_mount(pins)
    remedy = "`anyport run` mounts it; by hand: mount -t bpf bpf /sys/fs/bpf"
    return Finding("bpffs", mount is not None, False, str(mount or ""), remedy)


def _sysctls(interface: str) -> Iterator[Finding]:
    from anyport.kernel import sysctl

    for name, good, value in sysctl.wanted(interface)[:-1]:
        current = sysctl.read(name)
        path = "net." + name.replace("/", ".")
        remedy = f"`anyport run` sets it; by hand: sysctl -w {path}={value}"
        yield Finding(path, current in good, False, f"is {current}", remedy)


def _mptcp() -> Finding:
    from anyport.kernel import sysctl

    name, good, value = sysctl.wanted("all")[-1]
    current = sysctl.read(name)
    detail = "no MPTCP in this kernel" if current is None else f"is {current}"
    remedy = f"`anyport run` sets it; by hand: sysctl -w net.{name.replace('/', '.')}={value}"
    return Finding("MPTCP joins refused", current is None or current in good, False, detail, remedy)


def _large_receive_offload(interface: str) -> Finding:
    """LRO merges packets in a way that cannot be forwarded (ethtool(8), large-receive-offload)."""
    check, remedy = f"LRO off on {interface}", f"ethtool -K {interface} lro off"
    if shutil.which("ethtool") is None:
        return Finding(check, None, False, "no ethtool", "apt install ethtool")
    asked = subprocess.run(
        ["ethtool", "-k", interface], capture_output=True, text=True, check=False
    )
    lines = [s.split(":")[1].strip() for s in asked.stdout.splitlines() if "large-receive" in s]
    if not lines:
        return Finding(check, None, False, asked.stderr.strip() or "not told", remedy)
    return Finding(check, lines[0].startswith("off"), False, lines[0], remedy)
