# SPDX-License-Identifier: Apache-2.0
"""The sysctls that a VIP needs, in this network namespace, and how to put them back.

/proc/sys/net shows the network namespace of the task that opens it
(network_namespaces(7)), so nothing here names one.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from anyport.errors import KernelError
from anyport.model.definition import Range

_ROOT = Path("/proc/sys/net")
_RESERVED = "ipv4/ip_local_reserved_ports"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LONGEST = 1 << 19  # every second port reserved is 190 kB

# Every setting: name beneath /proc/sys/net, values that will do, value to write.
Wanted = tuple[str, frozenset[str], str]


def wanted(interface: str) -> list[Wanted]:
    """What a host with a VIP on `lo` needs.

    arp_ignore: answer ARP only for addresses of the interface asked, so never
    for the VIP (2 and 8 are stricter). arp_announce: ask with the interface's
    own address as sender, or the LAN would learn the VIP's from us. An
    interface's effective value is the greater of its own and `all`'s
    (ip-sysctl.rst), so `all` covers the interfaces nobody named. An MPTCP join
    to the VIP would reach another target than its connection did.
    """
    settings: list[Wanted] = []
    for name in dict.fromkeys(("all", interface)):
        settings += [
            (f"ipv4/conf/{name}/arp_ignore", frozenset({"1", "2", "8"}), "1"),
            (f"ipv4/conf/{name}/arp_announce", frozenset({"2"}), "2"),
        ]
    return [*settings, ("mptcp/allow_join_initial_addr_port", frozenset({"0"}), "0")]


def set_sysctls(interface: str, memory: Path) -> None:
    """Sets what `wanted` says; what it replaces is kept in `memory`, for `restore_sysctls`.

    A setting that this kernel lacks (MPTCP not built in) is skipped. Raises KernelError.
    """
    for name, good, value in wanted(interface):
        current = read(name)
        if current is not None and current not in good:
            # Before the sysctl, as a crash between the two would forget it. The
            # first value of this boot is the one that was there before us.
            _remember(memory, {name: current} | _recall(memory))
            _write(name, value)


def restore_sysctls(memory: Path) -> None:
    """Writes old values back, as far as known; one whose interface has gone is skipped.

    Raises KernelError.
    """
    for name, value in _recall(memory).items():
        if read(name) is not None:
            _write(name, value)
    memory.unlink(missing_ok=True)


def read(name: str) -> str | None:
    """The value of /proc/sys/net/`name`, stripped; None if there is no such setting."""
    try:
        fd = os.open(_ROOT / name, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelError(f"sysctl net/{name}: read", error.errno or 0) from None
    with contextlib.closing(os.fdopen(fd, "rb", buffering=0)) as file:
        # In one read: /proc/sys gives no second part (fs/proc/proc_sysctl.c).
        return (file.read(_LONGEST) or b"").decode().strip()


class ReservedPorts:
    """Our share of net.ipv4.ip_local_reserved_ports; what others reserved stays.

    The sysctl does not say who reserved what, so `memory` (a file) holds what
    we added, and in which boot: after the next the sysctl starts afresh.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory

    def reserve(self, ranges: Iterable[Range]) -> None:
        """Our share becomes `ranges` (inclusive), less what others reserved; () gives it back."""
        ours = self._ours()
        current = _ports(read(_RESERVED) or "")
        others = current - ours
        wanted = _expand(ranges) - others
        if wanted == ours and ours <= current:
            return
        # Before the sysctl, so that after a crash between the two nothing of
        # ours passes for somebody else's and stays for ever.
        self._remember(ours | wanted)
        _write(_RESERVED, _text(others | wanted))
        self._remember(wanted)

    def _ours(self) -> set[int]:
        try:
            return _ports(_recall(self._memory).get("ports", ""))
        except ValueError:
            return set()

    def _remember(self, ports: set[int]) -> None:
        _remember(self._memory, {"ports": _text(ports)})


def _recall(memory: Path) -> dict[str, str]:
    """What was remembered in this boot; after the next all sysctls start afresh."""
    try:
        found = json.loads(memory.read_text())
        boot = found.pop("boot")
        return {str(k): str(v) for k, v in found.items()} if boot == _boot() else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _remember(memory: Path, what: Mapping[str, str]) -> None:
    written = memory.with_suffix(".new")
    written.write_text(json.dumps({"boot": _boot(), **what}))
    written.replace(memory)


def _write(name: str, value: str) -> None:
    """The file position matters: the kernel merges the parts of a long list by it."""
    rest = value.encode() or b"\n"
    try:
        with open(_ROOT / name, "wb", buffering=0) as file:
            while rest:
                rest = rest[file.write(rest) :]
    except OSError as error:
        raise KernelError(f"sysctl net/{name}: write", error.errno or 0) from None


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _ports(text: str) -> set[int]:
    """`8080,9000-9010`, the form of the sysctl."""
    return _expand(
        (int(first), int(last or first))
        for first, _, last in (part.partition("-") for part in text.split(",") if part)
    )


def _expand(ranges: Iterable[Range]) -> set[int]:
    return {port for first, last in ranges for port in range(first, last + 1)}


def _text(ports: set[int]) -> str:
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in _runs(ports))


def _runs(ports: set[int]) -> Iterator[Range]:
    for first in sorted(port for port in ports if port - 1 not in ports):
        last = first
        while last + 1 in ports:
            last += 1
        yield first, last
