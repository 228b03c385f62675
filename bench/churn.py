# SPDX-License-Identifier: Apache-2.0
"""How many listeners may open and close a second: a group of bench.control."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from bench.cluster import FIRST_PORT, VIP, Cluster, Player
from bench.rounds import Case, alternate, progress
from bench.series import Row, Series

SECONDS = 10
HOSTS = 3
RATES = (250, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 7000, 8000)
FIRST_RATE = 2000
LATE_SECONDS = 0.25
"""Within it after the last change the table is right, and the programs made that change: else it
was more than the cluster, or the programs, could keep up with."""

KEPT_UP = Row("changes kept up with for 10 s", "1/s", "≥ 2,000")
TABLE_RIGHT = Row("table right after the last of them", "ms")


def measure(
    part: str, rounds: int, seconds: int, length: int = SECONDS, lab: str = "benchchurn"
) -> list[Series]:
    """Each rate for `length` seconds."""
    with Cluster(lab, hosts=HOSTS) as cluster:
        return alternate(part, [Case("anyport", partial(highest, cluster, length))], rounds)


def highest(cluster: Cluster, seconds: int) -> Mapping[Row, float]:
    lags: dict[int, float | None] = {}

    def keeps_up(rate: int) -> bool:
        lags[rate] = lag(cluster, rate, seconds)
        progress(f"    {rate} a second: {_said(lags[rate])}")
        return lags[rate] is not None

    found = climb(RATES, FIRST_RATE, keeps_up)
    return {KEPT_UP: float(found), TABLE_RIGHT: 1000 * (lags.get(found) or 0.0)}


def climb(rates: Sequence[int], first: int, holds: Callable[[int], bool]) -> int:
    """The highest of the rising `rates` that holds, looked for from `first` on; 0: not one."""
    place = rates.index(first)
    if holds(first):
        while place + 1 < len(rates) and holds(rates[place + 1]):
            place += 1
        return rates[place]
    return next((rate for rate in reversed(rates[:place]) if holds(rate)), 0)


def lag(cluster: Cluster, rate: int, seconds: float) -> float | None:
    """Seconds from the last change until the table is right; None: it was not in time."""
    with churning(cluster, rate) as churn:
        churn.go(seconds)
        return churn.lag()


@contextlib.contextmanager
def churning(cluster: Cluster, rate: int) -> Iterator[Churning]:
    """So many changes a second on all hosts together, ready to begin."""
    churn = Churning(cluster, rate)
    try:
        yield churn
    finally:
        churn.end()


class Churning:
    def __init__(self, cluster: Cluster, rate: int) -> None:
        self._cluster = cluster
        share = rate // len(cluster.lab.hosts)
        self._ranges = {
            host: range(FIRST_PORT + number * share, FIRST_PORT + (number + 1) * share)
            for number, host in enumerate(cluster.lab.hosts)
        }
        self._players: dict[str, Player] = {
            host: cluster.player(host, "churn", ports[0], share)
            for host, ports in self._ranges.items()
        }
        self._said = self._ask_all("")
        self._await_table()

    def go(self, seconds: float) -> None:
        """They begin at once; `lag` waits for their end."""
        for player in self._players.values():
            player.tell(seconds)

    def lag(self) -> float | None:
        """See churn.lag."""
        self._said = {host: player.said() for host, player in self._players.items()}
        last = max(said["at"] for said in self._said.values())
        late = max(said["late"] for said in self._said.values())
        took = self._await_table() - last
        self._refuse_other_targets()
        return took if max(took, late) <= LATE_SECONDS else None

    def end(self) -> None:
        for player in self._players.values():
            player.end()
        self._said = {host: {"open": []} for host in self._ranges}
        self._await_table()

    def _ask_all(self, word: str) -> dict[str, Any]:
        for player in self._players.values():
            player.tell(word)
        return {host: player.said() for host, player in self._players.items()}

    def _await_table(self) -> float:
        """CLOCK_MONOTONIC when the distributor's kernel has routes for what is open, no others."""
        is_open = {port for said in self._said.values() for port in said["open"]}
        closed = [p for ports in self._ranges.values() for p in ports if p not in is_open]
        self._cluster.await_routes(sorted(is_open))
        return self._cluster.await_routes(closed, there=False)

    def _refuse_other_targets(self) -> None:
        """Raises AssertionError: the table has come to rest, and is wrong."""
        want = {port: [host] for host, said in self._said.items() for port in said["open"]}
        rows = self._cluster.lab.client(self._cluster.distributor).get("ports", vip=VIP)
        have = {
            row["port"]: [target["host"] for target in row["targets"]]
            for row in rows
            if any(row["port"] in ports for ports in self._ranges.values())
        }
        assert have == want, "the port table is not what is open"


def _said(lag_seconds: float | None) -> str:
    return "not kept up with" if lag_seconds is None else f"right after {lag_seconds * 1000:.0f} ms"
