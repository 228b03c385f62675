# SPDX-License-Identifier: Apache-2.0
"""A host of one test: namespace, cgroup, pins and listen.bpf.c, with the test's process in it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from anyport.kernel.listen import Event, HostedDefinition, ListenKernel
from anyport.model import ANY, Definition, PortBlock, PortSet
from anyport.model.definition import Address, Ports
from tests.support.netns import fresh_bpffs, fresh_cgroup, fresh_netns
from tests.support.sockets import PATIENCE

VIP = IPv4Address("10.99.0.1")
OTHER_VIP = IPv4Address("10.99.0.2")
VIP6 = IPv6Address("fd99::1")
OTHER_VIP6 = IPv6Address("fd99::2")
CLIENT = "127.0.0.9"


class ListenHost:
    def __init__(self, cgroup: Path, pins: Path) -> None:
        self._cgroup = cgroup
        self._pins = pins
        self.kernel = ListenKernel.attach(cgroup, pins)

    def pin(self, program: str) -> Path:
        """Where the attachment of a program is pinned."""
        return self._pins / "links" / f"listen_{program}"

    def define(self, *definitions: HostedDefinition) -> None:
        """As the agent does it."""
        self.kernel.set_definitions(definitions)
        self.kernel.reconcile()

    def restart(self) -> None:
        """As a daemon that dies and comes back."""
        self.kernel.close()
        self.start()

    def start(self) -> None:
        """After close or detach."""
        self.kernel = ListenKernel.attach(self._cgroup, self._pins)

    def events(self, count: int) -> list[Event]:
        """The next `count` events; more, or none in time, is a failure."""
        found: list[Event] = []
        deadline = time.monotonic() + PATIENCE
        while len(found) < count:
            left = deadline - time.monotonic()
            assert left > 0, f"{count} events were expected, these came: {found}"
            select.select([self.kernel], [], [], left)
            found += self._read()
        found += self._read()
        assert len(found) == count, found
        return found

    def event(self) -> Event:
        return self.events(1)[0]

    def quiet(self) -> None:
        """No event. The programs run within the calls that they watch: none is on its way."""
        assert self._read() == []

    def _read(self) -> list[Event]:
        read = self.kernel.read()
        assert not read.lost
        return read.events


@contextmanager
def listen_host(tmp_path: Path) -> Iterator[ListenHost]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with (
        fresh_netns(f"{VIP}/32", f"{OTHER_VIP}/32", f"{VIP6}/128", f"{OTHER_VIP6}/128"),
        fresh_cgroup() as cgroup,
        fresh_bpffs(tmp_path / "bpf") as bpffs,
    ):
        host = ListenHost(cgroup, bpffs / "pins")
        try:
            yield host
        finally:
            host.kernel.detach()


def hosted(
    vip: Address = VIP,
    ports: str = "any",
    leased: tuple[tuple[int, int], ...] = (),
    own: tuple[tuple[int, int], ...] = (),
) -> HostedDefinition:
    """`own` blocks need not be repeated in `leased`."""
    wanted: Ports = ANY if ports == "any" else PortSet.parse(ports)
    return HostedDefinition(
        Definition(vip, wanted),
        leased=[PortBlock(vip, *block) for block in (*leased, *own)],
        own=[PortBlock(vip, *block) for block in own],
    )
