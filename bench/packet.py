# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds per packet of the distributor's program, by BPF_PROG_RUN: `python -m bench.packet`.

Each row is what `distribute` takes for a packet net of an empty program that is
reached the same way, just before. No packet leaves the machine: what the kernel does after the
program (neighbour, queue, driver) is not in the figures.
XDP leaves what is not for the VIP to TC: there both are due.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Address

from anyport.decide.rows import Hop, HostRow, RouteKind, RouteRow
from anyport.decide.rows import Path as PathKind
from anyport.kernel.distribute import DistributorKernel
from anyport.model import Protocol
from bench.command import run_part
from bench.loads import LOADS, MILLION, SHARED, UNIQUE, VIP, Load
from bench.rounds import Case, alternate
from bench.series import Row, Series
from bench.varied import Order, Varied
from tests.support.packets import ACK, SYN, ethernet, ipv4, tcp

PART = "packet"
HOOKS = ("tc", "xdp")

CLIENT = IPv4Address("10.128.0.0")
MAC, ROUTER_MAC = bytes.fromhex("02000000aa01"), bytes.fromhex("02000000bb01")
FIRST = 2000  # of many ports
_MOST = 0.95  # of a million connections a few find no room: docs/adr/0010
MEMORY = Row("one line of 64 MiB at random", "ns")


class Bench:
    """One load's table and program, filled."""

    def __init__(self, load: Load, varied: Varied, hook: str) -> None:
        self._load, self._varied = load, varied
        self._kernel = DistributorKernel.load(1, None, load.connections, 7, in_xdp=hook == "xdp")
        self._program = self._kernel.xdp_program or self._kernel.program
        self._seen = load.live
        self._fill()
        self._plan(Order.IN_TURN, load.live)
        self._send(SYN, load.live)
        if load.established:
            self._plan(Order.IN_TURN, load.live)
            self._send(ACK, load.live)

    def measure(self, packets: int) -> Mapping[Row, float]:
        """Nanoseconds per packet."""
        load = self._load
        self._plan(load.order, load.flows, load.live)
        empty = self._varied.run(self._varied.empty, self._frame(load.flags), packets)
        self._plan(load.order, load.flows, self._seen)
        self._seen += packets
        before = self._decided()
        taken = self._send(load.flags, packets)
        if load.verdict is not None and self._decided() - before < _MOST * packets:
            raise RuntimeError(f"{load.name}: {self._kernel.counters()}")
        return {load.row: taken - empty}

    def close(self) -> None:
        self._kernel.close()

    def _decided(self) -> int:
        verdict = self._load.verdict
        return 0 if verdict is None else self._kernel.counters()[verdict.name.lower()]

    def _plan(self, order: Order, flows: int, first: int = 0) -> None:
        self._varied.plan(order, flows, first, self._load.listeners, FIRST)

    def _send(self, flags: int, packets: int) -> int:
        return self._varied.run(self._program, self._frame(flags), packets)

    def _frame(self, flags: int) -> bytes:
        segment = tcp(0x8000, self._load.port, flags)
        return ethernet(MAC, ROUTER_MAC, 0x0800, ipv4(CLIENT, self._load.destination, 6, segment))

    def _fill(self) -> None:
        kernel = self._kernel
        for slot in (1, 2):
            hop = Hop(IPv4Address("10.0.0.1") + slot, PathKind.L2, 1)
            kernel.set_host(slot, HostRow(hop, hop, 100, ROUTER_MAC[:5] + bytes([slot])))
        kernel.set_selection(0, 0, [1, 2] * 2000)
        kernel.create_routes(0)
        shared = RouteRow(RouteKind.DISTRIBUTED, 0, 0b110)
        ports = range(FIRST, FIRST + self._load.listeners)
        kernel.set_routes(0, {(Protocol.TCP, port): shared for port in (SHARED, *ports)})
        kernel.set_routes(0, {(Protocol.TCP, UNIQUE): RouteRow(RouteKind.UNIQUE, 1, 0b10)})
        kernel.set_vip(VIP, 0, MAC)


def measure(rounds: int, seconds: int, loads: Sequence[Load] = LOADS) -> list[Series]:
    """Half a million packets a round for each of `seconds`, which is less than a second."""
    packets = seconds * 500_000
    with ExitStack() as stack:
        cases = [case for hook in HOOKS for case in _cases(stack, hook, loads, packets)]
        return alternate(PART, cases, rounds)


def _cases(stack: ExitStack, hook: str, loads: Sequence[Load], packets: int) -> Iterator[Case]:
    varied = Varied(MAC, MILLION, hook)
    stack.callback(varied.close)
    for load in loads:
        bench = Bench(load, varied, hook)
        stack.callback(bench.close)
        yield Case(f"anyport, {hook.upper()}", partial(bench.measure, packets))
    if hook == "tc":
        yield Case("memory", partial(measure_memory, varied, packets))


def measure_memory(varied: Varied, packets: int) -> Mapping[Row, float]:
    """Nanoseconds for one line somewhere in 64 MiB: no table of a million flows is faster."""
    frame = ethernet(MAC, ROUTER_MAC, 0x0800, ipv4(CLIENT, VIP, 6, tcp(0x8000, SHARED, ACK)))
    varied.plan(Order.RANDOM, MILLION)
    far = varied.run(varied.far, frame, packets)
    return {MEMORY: far - varied.run(varied.empty, frame, packets)}


def main(arguments: Sequence[str] | None = None) -> None:
    run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    main()
