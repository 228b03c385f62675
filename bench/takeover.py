# SPDX-License-Identifier: Apache-2.0
"""What a client notices when the VIP moves: a group of bench.control."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

from anyport.lab.node import CLIENT, LAN
from anyport.registry.keys import HostKey
from bench import programs
from bench.cluster import PATIENCE_SECONDS, VIP, Cluster
from bench.rounds import Case, alternate
from bench.series import Row, Series

HOSTS = 3
TTLS = (5, 2)
"""Seconds: the default, and the least that every etcd grants."""
PORT = 7000
PERIOD_SECONDS = 0.002
_POLL_SECONDS = 0.05
_AFTER_SECONDS = 1.0

Knocks = Sequence[tuple[float, float | None]]
"""When each was sent, and when its answer came."""


def measure(
    part: str,
    rounds: int,
    seconds: int,
    ttls: Sequence[int] = TTLS,
    lab: str = "benchtakeover",
) -> list[Series]:
    """One cluster for each TTL, one after another; polite handovers in the first of them."""
    found: list[Series] = []
    for ttl in ttls:
        with Cluster(lab, {"registry": {"ttl": ttl}}, HOSTS) as cluster:
            _serve(cluster)
            cases = [Case("anyport", partial(killed, cluster, ttl))]
            if ttl == ttls[0]:
                cases.append(Case("anyport", partial(left, cluster)))
            found += alternate(part, cases, rounds)
    return found


def killed(cluster: Cluster, ttl: int) -> Mapping[Row, float]:
    """The distributor's host goes at once, with its daemon and its link; and comes back empty."""
    old = _distributor(cluster)
    lease = cluster.deletion(str(HostKey(old)))
    knocks = _knocked(cluster, partial(_down, cluster, old))
    ended = float(lease.said())
    lease.end()
    _up(cluster, old)
    name = f"host killed, lease of {ttl} s"
    return {
        Row(f"{name}: silence", "ms", "≤ 1,000"): silence(knocks) * 1000,
        Row(f"{name}: of it after the lease", "ms"): (first_answer(knocks, ended) - ended) * 1000,
        Row(f"{name}: datagrams lost", "of 500/s"): float(lost(knocks)),
    }


def left(cluster: Cluster) -> Mapping[Row, float]:
    """SIGTERM to the distributor's daemon."""
    old = _distributor(cluster)
    knocks = _knocked(cluster, partial(cluster.lab.kill_daemon, old, signal.SIGTERM))
    cluster.lab.start_daemon(old)
    _await_whole(cluster)
    return {
        Row("handed on by SIGTERM: silence", "ms"): silence(knocks) * 1000,
        Row("handed on by SIGTERM: datagrams lost", "of 500/s"): float(lost(knocks)),
    }


def silence(knocks: Knocks) -> float:
    """Seconds: the longest between two answers."""
    answers = sorted(at for _, at in knocks if at is not None)
    return max(after - before for before, after in pairwise(answers))


def first_answer(knocks: Knocks, after: float) -> float:
    """CLOCK_MONOTONIC in seconds."""
    return min(at for _, at in knocks if at is not None and at > after)


def lost(knocks: Knocks) -> int:
    return sum(answered is None for _, answered in knocks)


def _serve(cluster: Cluster) -> None:
    for host in cluster.lab.hosts:
        cluster.player(host, "echo", PORT).said()


def _knocked(cluster: Cluster, strike: Callable[[], None]) -> Knocks:
    """From before `strike` until a while after another host distributes."""
    old = _distributor(cluster)
    client = cluster.player(CLIENT, "knock", PORT, PERIOD_SECONDS)
    client.said()
    time.sleep(_AFTER_SECONDS)
    strike()
    _await(lambda: _distributor(cluster, but=old) not in (None, old), "a takeover")
    time.sleep(_AFTER_SECONDS)
    knocks: Knocks = client.ask()
    client.end()
    return knocks


def _down(cluster: Cluster, host: str) -> None:
    programs.run(cluster.lab, LAN, "ip", "link", "set", host, "down")
    cluster.lab.kill_daemon(host)


def _up(cluster: Cluster, host: str) -> None:
    """As after a reboot: nothing of the former daemon is left in the kernel."""
    programs.run(cluster.lab, host, "anyport", "detach")
    programs.run(cluster.lab, LAN, "ip", "link", "set", host, "up")
    cluster.lab.start_daemon(host)
    _await_whole(cluster)


def _distributor(cluster: Cluster, but: str = "") -> str:
    """As another host than `but` knows it."""
    asked = next(host for host in cluster.lab.hosts if host != but)
    return str(cluster.lab.client(asked).vip(VIP)["distributor"] or but)


def _await_whole(cluster: Cluster) -> None:
    """Every daemon is ready, and knows all hosts' echo."""
    for host in cluster.lab.hosts:
        client = cluster.lab.client(host)
        _await(
            lambda client=client: (  # type: ignore[misc]
                client.get("status")["ready"] and len(client.get("listeners")) == HOSTS
            ),
            f"{host} to be ready",
        )


def _await(holds: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(f"waited for {what}")
        time.sleep(_POLL_SECONDS)
