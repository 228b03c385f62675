# SPDX-License-Identifier: Apache-2.0
"""What packets come, to what tables: the rows of packet.py, and the aims that were set for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from anyport.kernel.abi import Verdict
from bench.series import Row
from bench.varied import Order
from tests.support.packets import ACK, SYN

VIP, ELSEWHERE = IPv4Address("10.0.0.100"), IPv4Address("10.0.0.101")
SHARED, UNIQUE = 80, 85
MILLION = 1 << 20


@dataclass(frozen=True)
class Load:
    """`live` connections are in a table of `connections` before packets of `flows` come.

    They are shared out to as many ports as there are `listeners`. All but a
    few packets must be decided as `verdict`, or it was not this that was measured;
    None: they are not counted.
    """

    name: str
    aim: int | None = None
    verdict: Verdict | None = Verdict.ESTABLISHED
    port: int = SHARED
    flags: int = ACK
    destination: IPv4Address = VIP
    order: Order = Order.SAME
    flows: int = 1
    live: int = 1
    established: bool = True
    connections: int = 1 << 18
    listeners: int = 1

    @property
    def row(self) -> Row:
        return Row(self.name, "ns", "" if self.aim is None else f"≤ {self.aim}")


ONE = Load("established, 1 flow", 60)
THOUSANDS = Load(
    "established, 65,536 flows at random", 100, order=Order.RANDOM, flows=1 << 16, live=1 << 16
)
MILLIONS = Load(
    "established, 1 million flows at random",
    230,
    order=Order.RANDOM,
    flows=MILLION,
    live=MILLION,
    connections=MILLION,
)
NEW = Load(
    "new flow, 1 million established",
    150,
    Verdict.SELECTED,
    flags=SYN,
    order=Order.IN_TURN,
    flows=1 << 30,
    live=MILLION,
    connections=MILLION,
)
LOADS = (
    Load("not for the VIP", 15, None, destination=ELSEWHERE),
    ONE,
    THOUSANDS,
    MILLIONS,
    replace(
        NEW, name="new flow, table of 1 million full of SYNs", live=4 * MILLION, established=False
    ),
    replace(
        NEW,
        name="new flow, table of 4,096 full of SYNs",
        live=1 << 15,
        connections=1 << 12,
        established=False,
    ),
    NEW,
    Load("unique port", 30, Verdict.UNIQUE, port=UNIQUE),
    Load("unique port, SYN", None, Verdict.UNIQUE, port=UNIQUE, flags=SYN),
    *(
        replace(load, name=f"{load.name}; {count:,} listeners", listeners=count, aim=None)
        for count in (1000, 60_000)
        for load in (ONE, THOUSANDS, MILLIONS, NEW)
    ),
)
