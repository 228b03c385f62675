# SPDX-License-Identifier: Apache-2.0
"""64-byte packets a second that come through to the target: `python -m bench.flood`.

BPF_PROG_RUN in live frames mode sends them to the forwarder's veth, as a NIC
would have received them; what it sends to the target is put onto the target's,
and a TC program there counts and drops it (flood.bpf.c). All runs on one CPU, so
the figure says what one packet costs on the whole way. Proxies are left out:
they forward no packets.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from anyport.kernel.libbpf import AttachType, Link, Object
from anyport.kernel.libbpf_api import check, ffi, lib
from anyport.kernel.netns import entered
from anyport.lab import Lab
from anyport.lab.node import LAN
from bench import programs
from bench.command import run_part
from bench.compiled import loaded
from bench.rounds import Case, alternate
from bench.series import Row, Series
from bench.world import FLOOD_PORT, VARIANTS, Subject, Variant, world
from tests.support.packets import ACK, SYN, checksum, ethernet, ipv4, tcp, udp

PART = "flood"
SYNS = Row("SYNs of new flows", "million/s", "≥ 1.1 by XDP")
ACKS = Row("ACKs of 65,536 established flows", "million/s")
DATAGRAMS = Row("UDP of 65,536 flows", "million/s")
XDP = Variant("anyport, XDP", settings={"distributor": {"hook": "xdp"}})
MANY_FLOWS, NEW_FLOWS = 1 << 16, 1 << 30
CHUNK = 1 << 16
_FRAME_BYTES = 60
_LIVE_FRAMES = 2  # BPF_F_TEST_XDP_LIVE_FRAMES
_PLAN = struct.Struct("=64s5I8s")  # struct plan
_CLIENT = IPv4Address(0)  # `generate` writes it


class Flood:
    """By way of a subject's forwarder to its target."""

    def __init__(self, subject: Subject, program: Object) -> None:
        self._subject, self._object = subject, program
        self._generate = program.program("generate")
        self._next = 0
        lab = subject.lab
        for node in {subject.forwarder, subject.target}:  # makes a veth receive as a NIC does
            programs.run(lab, node, "ethtool", "-K", "eth0", "gro", "on")
        with entered(_namespace(lab, LAN)):
            ports = [socket.if_nametoindex(node) for node in (subject.forwarder, subject.target)]
        self._forwarder_port = ports[0]
        self._forwarder_mac, target_mac = (
            _mac(lab, node) for node in (subject.forwarder, subject.target)
        )
        self._ways = (*ports, target_mac)

    def measure(self, seconds: float) -> Mapping[Row, float]:
        with self._ready():
            for flags in (ACK, SYN, ACK):  # nftables takes up a flow by its ACK alone
                self._plan(self._tcp(flags), MANY_FLOWS, 0)
                self._send(MANY_FLOWS)
            return {
                SYNS: self._rate(self._tcp(SYN), NEW_FLOWS, seconds),
                ACKS: self._rate(self._tcp(ACK), MANY_FLOWS, seconds),
                DATAGRAMS: self._rate(self._udp(), MANY_FLOWS, seconds),
            }

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        """The programs at their interfaces, those of other subjects not."""
        lab, target = self._subject.lab, self._subject.target
        with ExitStack() as stack:
            with entered(_namespace(lab, target)):
                index = socket.if_nametoindex("eth0")
                count = Link.create(self._object.program("count"), index, AttachType.TCX_INGRESS)
                stack.callback(count.close)
            with entered(_namespace(lab, LAN)):
                wire = self._object.program("wire")
                if self._subject.forwarder != target:
                    link = Link.create(wire, self._forwarder_port, AttachType.XDP)
                    stack.callback(link.close)
                yield

    def _rate(self, packet: bytes, flows: int, seconds: float) -> float:
        """Millions a second, at the target."""
        self._plan(packet, flows, self._next)
        before, spent = self._counted(), 0.0
        while spent < seconds:
            spent += self._send(CHUNK)
            self._next += CHUNK
        return (self._counted() - before) / spent / 1e6

    def _send(self, packets: int) -> float:
        """Seconds on the CPU of the calling thread, which carries them all the way."""
        options, frame = ffi.new("struct bpf_test_run_opts *"), ffi.new("char[]", _FRAME_BYTES)
        options.sz = ffi.sizeof(options[0])
        options.data_in, options.data_size_in = frame, _FRAME_BYTES
        options.repeat, options.flags = packets, _LIVE_FRAMES
        check(lib().bpf_prog_test_run_opts(self._generate.fd, options), "live frames")
        return float(options.duration * packets / 1e9)

    def _plan(self, packet: bytes, flows: int, first: int) -> None:
        mac = self._forwarder_mac
        frame = ethernet(mac, mac[:5] + bytes([mac[5] ^ 1]), 0x0800, packet)
        fields = (frame, flows - 1, first & 0xFFFFFFFF, FLOOD_PORT, *self._ways)
        self._object.map("plans").update(bytes(4), _PLAN.pack(*fields))

    def _counted(self) -> int:
        values = self._object.map("counted").lookup_percpu(bytes(4))
        return sum(int.from_bytes(value, "little") for value in values)

    def _tcp(self, flags: int) -> bytes:
        segment = tcp(0, FLOOD_PORT, flags)
        to = IPv4Address(self._subject.address)
        sum_ = checksum(_CLIENT.packed + to.packed + struct.pack("!HH", 6, len(segment)) + segment)
        return ipv4(_CLIENT, to, 6, segment[:16] + struct.pack("!H", sum_) + segment[18:])

    def _udp(self) -> bytes:
        return ipv4(_CLIENT, IPv4Address(self._subject.address), 17, udp(0, FLOOD_PORT, bytes(18)))


def measure(rounds: int, seconds: int) -> list[Series]:
    with world((*VARIANTS, XDP)) as subjects, ExitStack() as stack:
        program = loaded("flood")
        stack.callback(program.close)
        floods = {s.name: Flood(s, program) for s in subjects if not s.is_proxy}
        cases = [Case(name, partial(one.measure, seconds)) for name, one in floods.items()]
        return alternate(PART, cases, rounds)


def _namespace(lab: Lab, node: str) -> Path:
    return Path("/run/netns") / lab.node(node).namespace


def _mac(lab: Lab, node: str) -> bytes:
    interface = lab.node(node).interface
    text = lab.run(node, ["ip", "-o", "link", "show", interface]).stdout
    return bytes.fromhex(text.partition("link/ether ")[2][:17].replace(":", ""))


def main(arguments: Sequence[str] | None = None) -> None:
    run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    main()
