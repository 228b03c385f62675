# SPDX-License-Identifier: Apache-2.0
"""What a daemon takes, and how soon it is back: a group of bench.control."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from anyport.kernel.libbpf import Map, MapType
from bench.churn import churning
from bench.cluster import FIRST_PORT, PATIENCE_SECONDS, Cluster, Listeners
from bench.memory import locked
from bench.rounds import Case, alternate
from bench.series import Row, Series

HOSTS = 3
MANY = 10_000
RATE = 2000
TTL = 30
"""Seconds: a restart is measured, not a takeover, on a busy machine too."""
_POLL_SECONDS = 0.005
_REST_SECONDS = 1.0  # for what the hosts that are not the distributor have yet to read
_OF_MAPS = {MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS}
_MIB = 1 << 20


def measure(
    part: str,
    rounds: int,
    seconds: int,
    many: int = MANY,
    rate: int = RATE,
    lab: str = "benchfootprint",
) -> list[Series]:
    with Cluster(lab, {"registry": {"ttl": TTL}}, HOSTS) as cluster:
        listeners = cluster.listeners(FIRST_PORT, many)
        cases = []
        for role, host in (("distributor", cluster.distributor), ("target", cluster.target)):
            for taken in (
                partial(idle, cluster, host, seconds),
                partial(with_many, cluster, host, seconds, listeners, many),
                partial(in_churn, cluster, host, seconds, rate),
            ):
                cases.append(Case(f"anyport, {role}", taken))
        return alternate(part, cases, rounds)


def idle(cluster: Cluster, host: str, seconds: float) -> Mapping[Row, float]:
    return _taken("idle", cluster, host, partial(time.sleep, seconds))


def with_many(
    cluster: Cluster, host: str, seconds: float, listeners: Listeners, many: int
) -> Mapping[Row, float]:
    """All are the target's."""
    listeners.toggle()
    name = f"{many:,} listeners"
    found = _taken(name, cluster, host, partial(time.sleep, seconds))
    found[Row(f"{name}: restarted and adopted", "ms")] = 1000 * _restarted(cluster, host, many)
    listeners.toggle()
    return found


def in_churn(cluster: Cluster, host: str, seconds: float, rate: int) -> Mapping[Row, float]:
    with churning(cluster, rate) as churn:

        def go() -> None:
            churn.go(seconds)
            churn.lag()

        return _taken(f"{rate:,} changes a second", cluster, host, go)


def _taken(
    name: str, cluster: Cluster, host: str, meanwhile: Callable[[], None]
) -> dict[Row, float]:
    """Of CPU while that runs, of memory after it."""
    time.sleep(_REST_SECONDS)
    pid = cluster.lab.daemon_pid(host)
    assert pid is not None
    before, began = _ran_ns(pid), time.monotonic_ns()
    meanwhile()
    share = (_ran_ns(pid) - before) / (time.monotonic_ns() - began)
    return {
        Row(f"{name}: CPU", "% of one"): 100 * share,
        Row(f"{name}: memory of the process", "MiB"): _resident(pid) / _MIB,
        Row(f"{name}: memory of its BPF maps", "MiB"): _of_maps(cluster.lab.node(host).pins) / _MIB,
    }


def _ran_ns(pid: int) -> int:
    """Of all threads that there are (a thread that ended takes its time with it)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


def _resident(pid: int) -> int:
    """Bytes, those included that other processes have too."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"process {pid} has no VmRSS")


def _of_maps(pins: Path) -> int:
    """Bytes that the kernel says they take."""
    total = 0
    for found in _pinned(pins):
        with closing(found):
            total += locked(found)
            inner = found.items() if found.type in _OF_MAPS else ()
            for _, number in inner:
                with closing(Map.open_id(int.from_bytes(number, "little"))) as one:
                    total += locked(one)
    return total


def _pinned(pins: Path) -> Iterator[Map]:
    """Links and programs are not maps: fdinfo of those has no map_type."""
    for path in pins.rglob("*"):
        if path.is_file():
            found = Map.open_pinned(path)
            if "map_type" in Path(f"/proc/self/fdinfo/{found.fd}").read_text():
                yield found
            else:
                found.close()


def _restarted(cluster: Cluster, host: str, many: int) -> float:
    """Seconds from the start of the process, after a kill, until it does all that it did."""
    cluster.lab.kill_daemon(host)
    began = time.monotonic()
    cluster.lab.start_daemon(host)
    client = cluster.lab.client(host)
    while time.monotonic() < began + PATIENCE_SECONDS:
        said = client.get("status")
        does = said["vips"][0]["distributing_here"] if host == cluster.distributor else True
        does &= said["listeners"] == (many if host == cluster.target else 0)
        if said["ready"] and does:
            return time.monotonic() - began
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"{host}: not adopted")
