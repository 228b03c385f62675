# SPDX-License-Identifier: Apache-2.0
"""From a change of the port table to the packet path: `python -m bench.changes`.

Whole: from just before a program opens (closes) its listeners until the
distributor's kernel has (lost) all their routes; agent, etcd and distributor
lie between. Maps alone: from the routes, decided, until the kernel has them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address

from anyport.decide.rows import NO_HOP, Hop, HostRow
from anyport.decide.rows import Path as PathKind
from anyport.distributor.programmer import Programmer
from anyport.kernel.distribute import DistributorKernel
from anyport.model import Distributed, Method, Protocol, Route, Target
from bench.cluster import FIRST_PORT, VIP, Cluster, Listeners
from bench.command import run_part
from bench.rounds import Case, alternate
from bench.series import Row, Series

PART = "changes"
SUBJECT = "anyport"
MANY = 10_000


ADDRESS = ip_address(VIP)
HOSTS = {
    name: HostRow(Hop(ip_address(address), PathKind.L2, 1), NO_HOP, 100)
    for name, address in (("a", "10.77.0.1"), ("b", "10.77.0.2"))
}
TARGETS = {name: Target(name, 100) for name in HOSTS}
ONE_HOST, BOTH = Distributed((TARGETS["a"],)), Distributed(tuple(TARGETS.values()))


def measure(rounds: int, seconds: int, many: int = MANY, lab: str = "benchchanges") -> list[Series]:
    """Each change once a round, however long it takes."""
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(lab))
        kernel = DistributorKernel.load(1, None, 1 << 16, 7)
        stack.callback(kernel.close)
        programmer = Programmer(kernel, {})
        programmer.open(ADDRESS)
        cases = [Case(SUBJECT, partial(whole, _listeners(cluster, n), n)) for n in (1, many)]
        cases += [Case(SUBJECT, partial(maps, programmer, n)) for n in (1, many)]
        return alternate(PART, cases, rounds)


def whole(listeners: Listeners, count: int) -> Mapping[Row, float]:
    """Milliseconds."""
    times = [(listeners.toggle(), listeners.toggle()) for _ in range(_times(count))]
    opened, closed = (statistics.median(one) * 1000 for one in zip(*times, strict=True))
    return {
        Row(f"{count:,} opened, whole", "ms"): opened,
        Row(f"{count:,} closed, whole", "ms"): closed,
    }


def maps(programmer: Programmer, count: int) -> Mapping[Row, float]:
    """Milliseconds; from two targets to one."""
    times = [_timed(programmer, count) for _ in range(_times(count))]
    return {Row(f"{count:,} changed, maps alone", "ms"): statistics.median(times) * 1000}


def _times(count: int) -> int:
    """In a round: what is short is measured more often."""
    return 20 if count == 1 else 1


def _timed(programmer: Programmer, count: int) -> float:
    _change(programmer, count, BOTH)
    began = time.perf_counter()
    _change(programmer, count, ONE_HOST)
    return time.perf_counter() - began


def _change(programmer: Programmer, count: int, route: Route) -> None:
    ports = range(FIRST_PORT, FIRST_PORT + count)
    programmer.change(ADDRESS, Method.HASH, {(Protocol.TCP, port): route for port in ports}, HOSTS)


def _listeners(cluster: Cluster, count: int) -> Listeners:
    return cluster.listeners(FIRST_PORT + count, count)  # ports that the other's are not


def main(arguments: Sequence[str] | None = None) -> None:
    run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    main()
