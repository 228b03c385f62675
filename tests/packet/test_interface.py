# SPDX-License-Identifier: Apache-2.0
"""The program on a real interface: attached, adopted, its packets seen on the wire."""

from __future__ import annotations

import mmap
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from anyport.decide.rows import NO_HOP, Hop, HostRow, RouteKind, RouteRow
from anyport.decide.rows import Path as PathKind
from anyport.errors import KernelError
from anyport.kernel import clsact, loader
from anyport.kernel.distribute import DistributorKernel
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.wire import (
    TARGET6,
    Wire,
    add_lan,
    attach,
    fill,
    forwarded,
)
from tests.packet.world import CLIENT, CLIENT6, MAC, ROUTER_MAC, VIP, VIP6, VIPS, segment
from tests.support import neighbours
from tests.support.netns import fresh_bpffs, run
from tests.support.packets import ACK, arp, vlan


def test_arp_is_answered(kernel: DistributorKernel, wire: Wire) -> None:
    wire.send(arp(1, ROUTER_MAC, CLIENT, VIP))
    expected = arp(2, MAC, VIP, CLIENT, target_mac=ROUTER_MAC, destination=ROUTER_MAC, source=MAC)
    assert wire.receive().hex() == expected.hex()


@pytest.mark.parametrize("options", [b"", neighbours.option(1, ROUTER_MAC)], ids=["no", "one"])
def test_solicitation_is_answered(kernel: DistributorKernel, wire: Wire, options: bytes) -> None:
    """By a longer frame, if it has no option."""
    group = neighbours.solicited_node(VIP6)
    wire.send(neighbours.message(135, ROUTER_MAC, CLIENT6, group, VIP6, options=options))
    expected = neighbours.message(
        neighbours.ADVERTISEMENT,
        MAC,
        VIP6,
        CLIENT6,
        VIP6,
        options=neighbours.option(neighbours.TARGET_MAC, MAC),
        flags=neighbours.SOLICITED | neighbours.OVERRIDE,
        destination_mac=ROUTER_MAC,
    )
    assert wire.receive().hex() == expected.hex()


@pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])
def test_forwarded_to_the_targets_mac(kernel: DistributorKernel, wire: Wire, vip: Address) -> None:
    frame = segment(w.SHARED, vip=vip)
    wire.send(frame)
    assert wire.receive().hex() == forwarded(frame).hex()


def test_by_a_next_hop_of_the_other_family(kernel: DistributorKernel, wire: Wire) -> None:
    """IPv4 by an IPv6 neighbour (RFC 8950) is the kernel's to do; the reverse it can not."""
    kernel.set_host(w.A, HostRow(Hop(TARGET6, PathKind.L2, wire.index), NO_HOP, 100))
    wire.send(segment(w.SHARED))
    assert wire.receive().hex() == forwarded(segment(w.SHARED)).hex()


def test_headers_outside_the_linear_part_are_pulled(kernel: DistributorKernel, wire: Wire) -> None:
    for frame in (
        segment(w.SHARED, options=b"\x01" * 40, data=b"x" * 1000),
        segment(w.SHARED, vip=VIP6, data=b"x" * 1000),
    ):
        send_in_fragments(frame)
        assert wire.receive().hex() == forwarded(frame).hex()
    request = arp(1, ROUTER_MAC, CLIENT, VIP)
    send_in_fragments(request)
    assert wire.receive()[20:22] == b"\0\2"


@pytest.mark.parametrize(
    "frame",
    [
        *(segment(w.SHARED)[:length] for length in (15, 20, 33)),
        *(segment(w.SHARED, vip=VIP6)[:length] for length in (15, 20, 53)),
    ],
    ids=len,
)
def test_no_whole_ip_header(kernel: DistributorKernel, wire: Wire, frame: bytes) -> None:
    """Not ours: the address is not there. The next frame tells that it was counted."""
    before = kernel.counters()["not_ours"]
    wire.send(frame)
    wire.send(segment(w.SHARED))
    wire.receive()
    assert kernel.counters()["not_ours"] == before + 1


@pytest.mark.parametrize("vip", VIPS, ids=["ipv4", "ipv6"])
def test_a_priority_is_no_vlan(kernel: DistributorKernel, wire: Wire, vip: Address) -> None:
    """802.1Q 6.9: VID 0 carries a priority only; the kernel has taken the tag off by then."""
    frame = segment(w.SHARED, vip=vip)
    before = kernel.counters()["not_ours"]
    wire.send(vlan(frame, 100))
    wire.send(vlan(vlan(frame, 100), 0))
    wire.send(vlan(frame, 7 << 13))
    assert wire.receive().hex() == forwarded(frame).hex()
    assert kernel.counters()["not_ours"] == before + 2


def test_adopted_by_the_next_daemon(wire: Wire, pins: Path) -> None:
    """Routes and connections are there; packets are forwarded also while nobody runs."""
    first = attach(wire, pins)
    fill(first, wire)
    wire.send(segment(w.SHARED))
    wire.receive()
    tables = first.vips(), first.routes(0), first.hosts(), first.selections()
    first.close()
    wire.send(segment(w.SHARED, ACK))
    assert wire.receive() == forwarded(segment(w.SHARED, ACK))
    second = attach(wire, pins)
    assert (second.vips(), second.routes(0), second.hosts(), second.selections()) == tables
    assert [(c.client_port, c.slot) for c in second.connections()] == [(5000, w.A)]
    wire.send(segment(w.SHARED, ACK))
    assert wire.receive() == forwarded(segment(w.SHARED, ACK))
    assert second.counters()["established"] == 2
    second.set_routes(0, {(Protocol.TCP, w.UNIQUE): RouteRow(RouteKind.UNIQUE, w.A, 2)})
    wire.send(segment(w.UNIQUE))
    assert wire.receive() == forwarded(segment(w.UNIQUE))
    second.close()


def test_connection_table_of_another_size_is_copied(wire: Wire, pins: Path) -> None:
    first = attach(wire, pins, connections=1024)
    fill(first, wire)
    for client_port in range(3000, 3050):
        wire.send(segment(w.SHARED, client_port=client_port))
        wire.receive()
    before = set(first.connections())
    first.close()
    second = attach(wire, pins, connections=2048)
    assert len(before) == 50
    assert set(second.connections()) == before
    wire.send(segment(w.SHARED, client_port=2999))
    wire.receive()
    assert len(list(second.connections())) == 51
    second.close()


def test_attached_anew_when_the_interface_was_replaced(wire: Wire, pins: Path) -> None:
    attach(wire, pins).close()
    run("ip", "link", "del", "lan")
    add_lan()
    new_wire = Wire()
    again = attach(new_wire, pins)
    fill(again, new_wire)
    new_wire.send(segment(w.SHARED))
    assert new_wire.receive() == forwarded(segment(w.SHARED))
    again.close()
    new_wire.close()


def test_detach_leaves_nothing(wire: Wire, pins: Path) -> None:
    kernel = attach(wire, pins)
    kernel.detach()
    kernel.detach()
    kernel.close()
    assert {p.name for p in pins.iterdir() if p.suffix != ".debug"} == {"links", "layouts"}
    assert list((pins / "links").iterdir()) == []


def test_a_pinned_map_of_another_layout_is_named(wire: Wire, pins: Path) -> None:
    kernel = attach(wire, pins)
    (pins / "hosts").unlink()
    (pins / "connections").rename(pins / "hosts")
    kernel.close()
    with pytest.raises(KernelError, match=r"pinned map .*/hosts has value_size 128, .* needs \d+"):
        attach(wire, pins)


def test_an_interface_that_is_not_there(wire: Wire, pins: Path) -> None:
    with pytest.raises(KernelError, match=r"(tcx_ingress|clsact): No such device"):
        DistributorKernel.attach(4242, pins, 1024, 7)


def test_clsact_where_there_is_no_tcx(wire: Wire) -> None:
    """The same by a TC filter: attached twice it is replaced, not doubled."""
    kernel = DistributorKernel.load(wire.index, None, 1024, 7)
    fill(kernel, wire)
    assert not clsact.attached(wire.index)
    clsact.attach(kernel.program, wire.index)
    clsact.attach(kernel.program, wire.index)
    assert clsact.attached(wire.index)
    wire.send(segment(w.SHARED))
    assert wire.receive() == forwarded(segment(w.SHARED))
    assert run("tc", "filter", "show", "dev", "lan", "ingress").count("handle 0x") == 1
    clsact.detach(wire.index)
    clsact.detach(wire.index)
    assert not clsact.attached(wire.index)
    assert run("tc", "filter", "show", "dev", "lan", "ingress") == ""
    kernel.close()


PREPARE = "import pathlib, sys; from anyport.kernel import loader; " + (
    "loader.prepare_pins(pathlib.Path(sys.argv[1]))"
)


def prepared(pins: str, *before: str) -> subprocess.CompletedProcess[str]:
    """prepare_pins in a mount namespace of its own; then its mounts are printed."""
    script = "; ".join([*before, '"$@" && cat /proc/self/mountinfo'])
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", PREPARE, pins]
    return subprocess.run(command, capture_output=True, text=True, check=False)


UNMOUNT = "while umount /sys/fs/bpf 2>/dev/null; do :; done"


def test_bpffs_is_mounted_where_the_system_has_it() -> None:
    done = prepared("/sys/fs/bpf/anyport/a", UNMOUNT)
    assert done.returncode == 0, done.stderr
    mounts = [line.split()[4] for line in done.stdout.splitlines() if " - bpf " in line]
    assert [mount for mount in mounts if mount.startswith("/sys")] == ["/sys/fs/bpf"]


@pytest.mark.parametrize(
    ("pins", "before"),
    [
        ("/sys/anyport", UNMOUNT),
        ("/sys/fs/anyport", UNMOUNT),
        ("/sys/fs/bpf/../anyport", UNMOUNT),
        ("/sys/fs/bpf/anyport", f"{UNMOUNT}; mount -t tmpfs none /sys/fs/bpf"),
        ("/run/anyport-test/pins", ":"),
    ],
)
def test_bpffs_is_mounted_nowhere_else(pins: str, before: str) -> None:
    done = prepared(pins, before)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert f"daemon.pins {pins}: not in a BPF filesystem" in last
    assert "mount -t bpf bpf" in last
    assert not Path("/run/anyport-test").exists()


def test_pins_in_a_bpffs_of_ones_own(tmp_path: Path) -> None:
    with fresh_bpffs(tmp_path / "bpf") as mount:
        loader.prepare_pins(mount / "a" / "b")
        loader.prepare_pins(mount / "a" / "b")
        assert (mount / "a" / "b" / "links").is_dir()


def send_in_fragments(frame: bytes) -> None:
    """By a TPACKET_V2 ring (packet(7)), which leaves all but the Ethernet header in page fragments.

    Nothing else that a test can send with gives the program a packet to pull.
    """
    version, ring, size = 10, 13, 4096  # PACKET_VERSION, PACKET_TX_RING
    header, send_request = 32, 1
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.setsockopt(263, version, 1)  # SOL_PACKET, TPACKET_V2
        sender.setsockopt(263, ring, struct.pack("IIII", size, 1, size, 1))
        sender.bind(("wire", 0))
        with mmap.mmap(sender.fileno(), size) as memory:
            memory[header : header + len(frame)] = frame
            memory[:8] = struct.pack("II", send_request, len(frame))
            sender.send(b"")
