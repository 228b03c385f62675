# SPDX-License-Identifier: Apache-2.0
"""Names and places of a lab. All are derived from its name, so a crash loses none."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anyport.errors import KernelError, UsageError
from anyport.kernel.features import cgroup2_mount

LAN, CLIENT, ROUTER = "lan", "client", "router"
MOST_HOSTS = 50
LAN_HOSTS = 2
"""In a routed lab, that many are on the VIPs' LAN; the others are behind the router."""

_RUN = Path("/run/anyport-lab")
_NAMESPACES = Path("/run/netns")
_LAST_BYTE = {CLIENT: 100, ROUTER: 253, LAN: 254}


class Subnet(enum.IntEnum):
    """Of a routed lab; a flat one has the first alone, with every node in it."""

    LAN = 0
    FAR = 1
    CLIENT = 2

    def address(self, number: int) -> str:
        return f"10.77.{self.value}.{number}"

    def address6(self, number: int) -> str:
        """The number as if it were hexadecimal, to look alike."""
        return f"fd77::{number}" if self is Subnet.LAN else f"fd77:0:0:{self.value}::{number}"

    @property
    def bridge(self) -> str:
        return f"br{self.value}"


@dataclass(frozen=True)
class Node:
    """One member of a lab: `lan` (the bridges and the etcd), `client`, `router`, or a host."""

    lab: Places
    name: str
    subnet: Subnet = Subnet.LAN

    @property
    def is_host(self) -> bool:
        return self.name.startswith("host")

    @property
    def namespace(self) -> str:
        return f"anyport-{self.lab.name}-{self.name}"

    @property
    def address(self) -> str:
        return self.subnet.address(self.number)

    @property
    def address6(self) -> str:
        return self.subnet.address6(self.number)

    @property
    def link_local(self) -> str:
        return f"fe80::{self.number}"

    @property
    def number(self) -> int:
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
        return self.subnet.bridge if self.name == LAN else "eth0"


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

    @property
    def routed(self) -> bool:
        return (_NAMESPACES / self._namespace(ROUTER)).exists()

    def node(self, name: str) -> Node:
        return self._node(name, self.routed)

    def planned(self, hosts: int, routed: bool = False) -> list[Node]:
        names = [LAN, CLIENT, *(f"host{k}" for k in range(1, hosts + 1))]
        if routed:
            names.append(ROUTER)
        return [self._node(name, routed) for name in names]

    def present(self) -> list[Node]:
        """Those whose namespace is there: hosts by number, then client, router, lan."""
        order = {CLIENT: 1, ROUTER: 2, LAN: 3}
        return sorted(self._present(), key=lambda n: (order.get(n.name, 0), len(n.name), n.name))

    def _present(self) -> Iterator[Node]:
        pattern = re.compile(self._namespace(r"(lan|client|router|host\d+)"))
        routed = self.routed
        for path in _NAMESPACES.glob(self._namespace("*")):
            if found := pattern.fullmatch(path.name):
                yield self._node(found[1], routed)

    def _namespace(self, name: str) -> str:
        return f"anyport-{self.name}-{name}"

    def _node(self, name: str, routed: bool) -> Node:
        if routed and name == CLIENT:
            return Node(self, name, Subnet.CLIENT)
        if routed and name.startswith("host") and int(name[4:]) > LAN_HOSTS:
            return Node(self, name, Subnet.FAR)
        return Node(self, name)
