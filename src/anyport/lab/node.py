# SPDX-License-Identifier: Apache-2.0
"""Names and places of a lab. All are derived from its name, so a crash loses none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anyport.errors import KernelError, UsageError
from anyport.kernel.features import cgroup2_mount

LAN, CLIENT = "lan", "client"
MOST_HOSTS = 50

_RUN = Path("/run/anyport-lab")
_NAMESPACES = Path("/run/netns")
_NETWORK = "10.77.0"
_NETWORK6 = "fd77::"  # and the number as if it were hexadecimal, to look alike
_LAST_BYTE = {CLIENT: 100, LAN: 254}


@dataclass(frozen=True)
class Node:
    """One member of a lab: `lan` (the bridge and the etcd), `client`, or a host."""

    lab: Places
    name: str

    @property
    def is_host(self) -> bool:
        return self.name.startswith("host")

    @property
    def namespace(self) -> str:
        return f"anyport-{self.lab.name}-{self.name}"

    @property
    def address(self) -> str:
        return f"{_NETWORK}.{self._number}"

    @property
    def address6(self) -> str:
        return f"{_NETWORK6}{self._number}"

    @property
    def link_local(self) -> str:
        return f"fe80::{self._number}"

    @property
    def _number(self) -> int:
        return _LAST_BYTE.get(self.name) or int(self.name[4:])

    @property
    def cgroup(self) -> Path:
        return self.lab.cgroup / self.name

    @property
    def directory(self) -> Path:
        return self.lab.directory / self.name

    @property
    def pins(self) -> Path:
        return self.lab.bpffs / self.name

    @property
    def config(self) -> Path:
        return self.directory / "anyport.toml"

    @property
    def socket(self) -> Path:
        return self.directory / "anyport.sock"

    @property
    def log(self) -> Path:
        return self.directory / "daemon.log"

    @property
    def pid(self) -> Path:
        return self.directory / "daemon.pid"

    @property
    def interface(self) -> str:
        return "br0" if self.name == LAN else "eth0"


class Places:
    """A lab's own; `name` is part of all. Raises UsageError for one that cannot be."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9]{1,16}", name):
            raise UsageError(f"lab name {name!r}: allowed are 1-16 letters a-z and digits")
        self.name = name

    @property
    def directory(self) -> Path:
        return _RUN / self.name

    @property
    def bpffs(self) -> Path:
        return self.directory / "bpf"

    @cached_property
    def cgroup(self) -> Path:
        """Raises KernelError where there is no cgroup2."""
        mount = cgroup2_mount()
        if mount is None:
            raise KernelError("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
        return mount / f"anyport-{self.name}"

    def node(self, name: str) -> Node:
        return Node(self, name)

    def planned(self, hosts: int) -> list[Node]:
        names = [LAN, CLIENT, *(f"host{k}" for k in range(1, hosts + 1))]
        return [self.node(name) for name in names]

    def present(self) -> list[Node]:
        """Those whose namespace is there: hosts by number, then client, then lan."""
        order = {CLIENT: 1, LAN: 2}
        return sorted(self._present(), key=lambda n: (order.get(n.name, 0), len(n.name), n.name))

    def _present(self) -> Iterator[Node]:
        pattern = re.compile(rf"anyport-{self.name}-(lan|client|host\d+)")
        for path in _NAMESPACES.glob(f"anyport-{self.name}-*"):
            if found := pattern.fullmatch(path.name):
                yield self.node(found[1])
