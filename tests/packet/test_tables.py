# SPDX-License-Identifier: Apache-2.0
"""What is written to the maps is read back the same: adoption depends on it."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, ip_address

import pytest

from anyport.decide.rows import Hop, HostRow, Path, RouteKind, RouteRow, SelectionRow
from anyport.errors import KernelError
from anyport.kernel import abi
from anyport.kernel.libbpf import Object
from anyport.kernel.loader import object_path
from anyport.model import PortKey, Protocol
from tests.packet import world as w
from tests.packet.world import MAC, VIPS, World, segment


def test_every_port_of_a_vip_at_once(world: World) -> None:
    random.seed(1)
    rows: dict[PortKey, RouteRow] = {
        (protocol, port): RouteRow(
            RouteKind.DISTRIBUTED, random.randrange(2**32), random.randrange(1, 2**64)
        )
        for protocol in Protocol
        for port in range(65536)
    }
    world.kernel.create_routes(3)
    world.kernel.set_routes(3, rows)
    assert world.kernel.routes(3) == rows
    assert world.send(segment(w.SHARED)) == ["selected"]


def test_routes_are_replaced_cleared_and_created_empty(world: World) -> None:
    kernel, row = world.kernel, RouteRow(RouteKind.UNIQUE, w.A, 2)
    key = (Protocol.UDP, 65535)
    kernel.create_routes(4)
    kernel.set_routes(4, {key: row})
    kernel.set_routes(4, {})
    assert kernel.routes(4) == {key: row}
    kernel.set_routes(4, {key: RouteRow(RouteKind.NONE)})
    assert kernel.routes(4) == {}
    kernel.set_routes(4, {key: row})
    kernel.create_routes(4)
    assert kernel.routes(4) == {}
    kernel.clear_routes(4)
    kernel.clear_routes(4)
    assert kernel.routes(4) == {}
    with pytest.raises(KernelError, match="row 4 has no port table"):
        kernel.set_routes(4, {key: row})


def test_vips(world: World) -> None:
    other, mac = IPv4Address("10.9.8.7"), bytes.fromhex("0badc0ffee00")
    before = world.kernel.vips()
    assert before == {vip: (index, MAC) for vip, index in VIPS.items()}
    world.kernel.set_vip(other, 5, mac)
    assert world.kernel.vips() == before | {other: (5, mac)}
    world.kernel.delete_vip(other)
    world.kernel.delete_vip(other)
    assert world.kernel.vips() == before


def test_hosts(world: World) -> None:
    before = world.kernel.hosts()
    there = Hop(ip_address("fd00::9"), Path.L2, 2**31)
    row = HostRow(Hop(ip_address("10.0.0.9"), Path.IPIP), there, 2**32 - 1)
    world.kernel.set_host(63, row)
    assert world.kernel.hosts() == before | {63: row}
    with pytest.raises(KernelError):
        world.kernel.set_host(64, row)


def test_selections(world: World) -> None:
    before = world.kernel.selections()
    slots = tuple(i % 64 for i in range(abi.SELECTION_SLOTS))
    world.kernel.set_selection(511, abi.SelectionMethod.ROUND_ROBIN, slots)
    assert world.kernel.selections() == before | {511: SelectionRow(1, slots)}


def test_counters_count_every_verdict(world: World) -> None:
    assert world.kernel.counters() == {verdict.name.lower(): 0 for verdict in abi.Verdict}
    world.kernel.program.test_run(segment(w.SHARED), repeat=1000)
    assert sum(world.kernel.counters().values()) == 1000


def test_what_an_object_has_not_is_named() -> None:
    path = object_path("distribute")
    with pytest.raises(KernelError, match=r"distribute\.bpf\.o has no constant speed"):
        Object.open(path, rodata={"speed": 1})
    with pytest.raises(KernelError, match=r"distribute\.bpf\.o has no map speed"):
        Object.open(path, max_entries={"speed": 1})
    with pytest.raises(KernelError, match=r"distribute\.bpf\.o has no program speed"):
        Object.open(path, skip_programs=["speed"])
    with pytest.raises(KernelError, match=r"distil\.bpf\.o is missing: build it with make -C bpf"):
        object_path("distil")
