# SPDX-License-Identifier: Apache-2.0
"""The program in the driver, on a real interface: what it does alone, and what it hands on.

Verdicts and bytes of both forms: the tables of the other files, by `shared_world`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from anyport.decide.rows import Hop, HostRow
from anyport.decide.rows import Path as PathKind
from anyport.errors import KernelError
from anyport.kernel import ethtool, loader
from anyport.kernel.distribute import DistributorKernel
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.wire import OTHER_TARGET_MAC, TARGET_MAC, Wire, fill, forwarded
from tests.packet.world import CLIENT, ROUTER_MAC, VIP, VIPS, datagram, segment
from tests.support.packets import ACK, SYN, arp

MACS = {w.A: TARGET_MAC, w.B: OTHER_TARGET_MAC}


def attach_to(interface: str, pins: Path) -> DistributorKernel:
    """With no VIP: all is passed. A veth takes what XDP sends only if it has a program too."""
    return DistributorKernel.attach(socket.if_nametoindex(interface), pins, 1024, 7, in_xdp=True)


def attach(wire: Wire, pins: Path, in_xdp: bool = True) -> DistributorKernel:
    return DistributorKernel.attach(wire.index, pins, 1024, 7, in_xdp=in_xdp)


@pytest.fixture
def xdp(wire: Wire, pins: Path) -> Iterator[DistributorKernel]:
    far_end = attach_to("wire", pins / "far")
    kernel = attach(wire, pins)
    fill(kernel, wire)
    for slot, row in kernel.hosts().items():
        kernel.set_host(slot, replace(row, mac=MACS[slot]))
    yield kernel
    kernel.close()
    far_end.close()


def without_tc(pins: Path) -> None:
    loader.detach(loader.link_pin(pins, "distribute"))


def moved(kernel: DistributorKernel) -> dict[str, int]:
    return {name: count for name, count in kernel.counters().items() if count}


@pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])
def test_forwarded_in_the_driver(
    xdp: DistributorKernel, wire: Wire, pins: Path, vip: Address
) -> None:
    without_tc(pins)
    for frame in (segment(w.SHARED, vip=vip), segment(w.SHARED, ACK, vip=vip)):
        wire.send(frame)
        assert wire.receive().hex() == forwarded(frame).hex()
    wire.send(datagram(w.UNIQUE, vip=vip))
    assert wire.receive() == forwarded(datagram(w.UNIQUE, vip=vip), OTHER_TARGET_MAC)
    assert moved(xdp) == {"selected": 1, "established": 1, "unique": 1}


def test_what_is_not_plain_is_left(xdp: DistributorKernel, wire: Wire) -> None:
    wire.send(arp(1, ROUTER_MAC, CLIENT, VIP))
    assert wire.receive()[20:22] == b"\0\2"
    assert moved(xdp) == {"arp_replied": 1}


def test_a_target_without_a_mac_is_brought_there_by_tc(xdp: DistributorKernel, wire: Wire) -> None:
    """As chosen in XDP: counted once, and as what it was."""
    xdp.set_host(w.A, replace(xdp.hosts()[w.A], mac=b""))
    for frame in (segment(w.SHARED), segment(w.SHARED, ACK)):
        wire.send(frame)
        assert wire.receive().hex() == forwarded(frame).hex()
    assert moved(xdp) == {"selected": 1, "established": 1}


def test_a_target_elsewhere_is_brought_there_by_tc(xdp: DistributorKernel, wire: Wire) -> None:
    """Out of another interface: here by its index, that of `lo`, where TC loses it."""
    row = xdp.hosts()[w.A]
    xdp.set_host(w.A, replace(row, ipv4=replace(row.ipv4, ifindex=1)))
    wire.send(segment(w.SHARED), segment(w.UNIQUE))
    assert wire.receive() == forwarded(segment(w.UNIQUE), OTHER_TARGET_MAC)
    assert moved(xdp) == {"selected": 1, "unique": 1}


def test_the_local_stacks_are_decided_once(xdp: DistributorKernel, wire: Wire) -> None:
    here = Hop(None, PathKind.LOCAL)
    xdp.set_host(w.HERE, HostRow(here, here, 100))
    xdp.set_selection(3, 1, [w.HERE])
    xdp.set_routes(0, {(Protocol.TCP, w.AT_HOME): w.ROUTES[w.AT_HOME]})
    wire.send(segment(w.AT_HOME), segment(w.CLOSED))
    for flags in (SYN, ACK):  # the second is met after the stack has the first two
        wire.send(segment(w.SHARED, flags, client_port=7))
        assert wire.receive() == forwarded(segment(w.SHARED, flags, client_port=7))
    assert moved(xdp) == {"selected": 2, "no_route": 1, "established": 1}


def test_to_tc_and_back(xdp: DistributorKernel, wire: Wire, pins: Path) -> None:
    attach(wire, pins, in_xdp=False).close()
    assert not loader.link_pin(pins, "distribute_xdp").exists()
    wire.send(segment(w.SHARED))
    assert wire.receive() == forwarded(segment(w.SHARED))
    attach(wire, pins).close()
    without_tc(pins)
    wire.send(segment(w.SHARED, ACK))
    assert wire.receive() == forwarded(segment(w.SHARED, ACK))


def test_it_is_noticed_if_it_is_taken_off(xdp: DistributorKernel, pins: Path) -> None:
    assert xdp.attached()
    loader.detach(loader.link_pin(pins, "distribute_xdp"))
    assert not xdp.attached()


def test_a_driver_without_xdp(wire: Wire, pins: Path) -> None:
    with pytest.raises(KernelError, match="attach as xdp") as refused:
        DistributorKernel.attach(socket.if_nametoindex("lo"), pins, 1024, 7, in_xdp=True)
    assert refused.value.errno == errno.EOPNOTSUPP


def test_the_driver_is_told(wire: Wire) -> None:
    assert ethtool.driver("lan") == "veth"
    with pytest.raises(KernelError, match="interface nosuch: driver"):
        ethtool.driver("nosuch")
