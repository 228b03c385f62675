# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds per packet of the distributor's program, by BPF_PROG_RUN.

    python -m bench.packet [--rounds 7] [--json FILE]

Each row is what `distribute` takes for a packet net of an empty program that is
reached the same way; medians over rounds that alternate between the two and
between the rows. No packet leaves the machine: what the kernel does after the
program (neighbour, queue, driver) is not in the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path

from anyport.decide.rows import Hop, HostRow, RouteKind, RouteRow
from anyport.decide.rows import Path as PathKind
from anyport.kernel.distribute import DistributorKernel
from anyport.model import Protocol
from bench.varied import Order, Varied
from tests.support.packets import ACK, SYN, ethernet, ipv4, tcp

VIP, ELSEWHERE = IPv4Address("10.0.0.100"), IPv4Address("10.0.0.101")
CLIENT = IPv4Address("10.128.0.0")
MAC, ROUTER_MAC = bytes.fromhex("02000000aa01"), bytes.fromhex("02000000bb01")
SHARED, UNIQUE = 80, 85
MEMORY = "(one line of 64 MiB at random, for comparison)"
MILLION = 1 << 20


@dataclass(frozen=True)
class Row:
    """`live` connections are in a table of `connections` before packets of `flows` come."""

    name: str
    aim: int
    port: int = SHARED
    flags: int = ACK
    destination: IPv4Address = VIP
    order: Order = Order.SAME
    flows: int = 1
    live: int = 1
    established: bool = True
    connections: int = 1 << 18
    packets: int = 1_000_000


ROWS = [
    Row("not for the VIP", 15, destination=ELSEWHERE),
    Row("established, 1 flow", 60),
    Row(
        "established, 65,536 flows at random", 100, order=Order.RANDOM, flows=1 << 16, live=1 << 16
    ),
    Row(
        "established, 1 million flows at random",
        230,
        order=Order.RANDOM,
        flows=MILLION,
        live=MILLION,
        connections=MILLION,
    ),
    Row(
        "new flow, table of 1 million full of SYNs",
        150,
        flags=SYN,
        order=Order.IN_TURN,
        flows=1 << 30,
        live=4 * MILLION,
        established=False,
        connections=MILLION,
    ),
    Row(
        "new flow, table of 4,096 full of SYNs",
        150,
        flags=SYN,
        order=Order.IN_TURN,
        flows=1 << 30,
        live=1 << 15,
        established=False,
        connections=1 << 12,
    ),
    Row(
        "new flow, 1 million established",
        150,
        flags=SYN,
        order=Order.IN_TURN,
        flows=1 << 30,
        live=MILLION,
        connections=MILLION,
    ),
    Row("unique port", 30, port=UNIQUE, flags=SYN),
]


class Bench:
    """One row's table and program, filled."""

    def __init__(self, row: Row, varied: Varied) -> None:
        self._row, self._varied = row, varied
        self._kernel = DistributorKernel.load(1, None, row.connections, 7)
        self._fill()
        varied.plan(Order.IN_TURN, row.live)
        self._send(SYN, row.live)
        if row.established:
            self._send(ACK, row.live)

    def measure(self) -> float:
        """Nanoseconds per packet."""
        row = self._row
        self._varied.plan(row.order, row.flows, row.live)
        empty = self._varied.run(self._varied.empty, self._frame(row.flags), row.packets)
        self._varied.plan(row.order, row.flows, self._seen)
        self._seen += row.packets
        return self._send(row.flags, row.packets) - empty

    def close(self) -> None:
        self._kernel.close()

    def _send(self, flags: int, packets: int) -> int:
        return self._varied.run(self._kernel.program, self._frame(flags), packets)

    def _frame(self, flags: int) -> bytes:
        segment = tcp(0x8000, self._row.port, flags)
        return ethernet(MAC, ROUTER_MAC, 0x0800, ipv4(CLIENT, self._row.destination, 6, segment))

    def _fill(self) -> None:
        kernel = self._kernel
        self._seen = self._row.live
        for slot in (1, 2):
            hop = Hop(IPv4Address("10.0.0.1") + slot, PathKind.L2, 1)
            kernel.set_host(slot, HostRow(hop, hop, 100))
        kernel.set_selection(0, 0, [1, 2] * 2000)
        kernel.create_routes(0)
        kernel.set_routes(
            0,
            {
                (Protocol.TCP, SHARED): RouteRow(RouteKind.DISTRIBUTED, 0, 0b110),
                (Protocol.TCP, UNIQUE): RouteRow(RouteKind.UNIQUE, 1, 0b10),
            },
        )
        kernel.set_vip(VIP, 0, MAC)


def measure(rows: Sequence[Row], rounds: int) -> dict[str, list[float]]:
    varied = Varied(lines=MILLION)
    benches = {row.name: Bench(row, varied) for row in rows}
    found: dict[str, list[float]] = {row.name: [] for row in rows}
    found[MEMORY] = []
    for _ in range(rounds):
        found[MEMORY].append(measure_memory(varied))
        for name, bench in benches.items():
            found[name].append(bench.measure())
    for bench in benches.values():
        bench.close()
    varied.close()
    return found


def measure_memory(varied: Varied) -> float:
    """Nanoseconds for one line somewhere in 64 MiB: no table of a million flows is faster."""
    frame = ethernet(MAC, ROUTER_MAC, 0x0800, ipv4(CLIENT, VIP, 6, tcp(0x8000, SHARED, ACK)))
    varied.plan(Order.RANDOM, MILLION)
    far = varied.run(varied.far, frame, 1_000_000)
    return far - varied.run(varied.empty, frame, 1_000_000)


def report(name: str, aim: int | str, figures: Sequence[float]) -> str:
    median = statistics.median(figures)
    return f"{name:48} {median:5.0f} {aim:>5} {min(figures):5.0f}-{max(figures):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write every figure here")
    options = parser.parse_args()
    figures = measure(ROWS, options.rounds)
    print(f"{'packet':48} {'ns':>5} {'aim':>5} least-most of {options.rounds} rounds")
    for row in ROWS:
        print(report(row.name, row.aim, figures[row.name]))
    print(report(MEMORY, "", figures[MEMORY]))
    if options.json:
        rows = [{**asdict(row), "ns": figures[row.name]} for row in ROWS]
        rows.append({"name": MEMORY, "ns": figures[MEMORY]})
        options.json.write_text(json.dumps(rows, default=str, indent=1) + "\n")


if __name__ == "__main__":
    main()
