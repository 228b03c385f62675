# SPDX-License-Identifier: Apache-2.0
"""Each part of the benchmarks runs, as short as it can be; how fast anything was is not asked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from anyport.lab import Lab
from bench import bulk, changes, churn, footprint, memory, opening, packet, requests, takeover
from bench.cluster import FIRST_PORT, Cluster
from bench.compiled import loaded
from bench.flood import ACKS, DATAGRAMS, SYNS, XDP, Flood
from bench.loads import LOADS, NEW
from bench.series import DIRECT
from bench.world import Subject, Variant, world

PROGRAMS = ("wrk", "iperf3", "nft", "haproxy", "nginx")
ANYPORT, PEERS = "anyport", ("nftables DNAT", "HAProxy", "nginx stream")
PREFIX = f"bt{os.getpid()}"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not all(map(shutil.which, PROGRAMS)), reason=f"wants {', '.join(PROGRAMS)}: make bench"
    ),
]


@pytest.fixture(scope="module")
def subjects() -> Iterator[dict[str, Subject]]:
    with world([Variant(ANYPORT, listeners=20), XDP], PREFIX) as subjects:
        yield {subject.name: subject for subject in subjects}


def test_all_are_compared(subjects: dict[str, Subject]) -> None:
    assert list(subjects) == [DIRECT, ANYPORT, XDP.name, *PEERS]


@pytest.mark.parametrize("name", [DIRECT, ANYPORT])
def test_requests(subjects: dict[str, Subject], name: str) -> None:
    found = requests.measure_one(subjects[name], 1)
    assert list(found) == [requests.NEW, requests.KEPT, requests.HALF, requests.SLOWEST]
    assert 0 < found[requests.HALF] <= found[requests.SLOWEST]
    assert found[requests.NEW] > 0
    assert found[requests.KEPT] > 0


@pytest.mark.parametrize("name", [ANYPORT, *PEERS])
def test_bulk(subjects: dict[str, Subject], name: str) -> None:
    assert bulk.iperf(subjects[name], 1, "-P2") > 0


def test_flood(subjects: dict[str, Subject]) -> None:
    program = loaded("flood")
    try:
        for subject in subjects.values():
            if not subject.is_proxy:
                found = Flood(subject, program).measure(0.001)
                assert list(found) == [SYNS, ACKS, DATAGRAMS]
                assert all(rate > 0 for rate in found.values()), (subject.name, found)
    finally:
        program.close()


def test_packet() -> None:
    """Of each kind one; a table that holds 64 connections instead of a million."""
    many = next(load for load in LOADS if load.listeners == 60_000)
    loads = [replace(load, live=64, connections=1 << 10) for load in (NEW, many)]
    found = packet.measure(2, 1, loads)
    for hook in ("TC", "XDP"):
        rows = [series.row for series in found if series.subject == f"anyport, {hook}"]
        assert rows == [load.row for load in loads]
    assert all(len(series.values) == 2 for series in found)


def test_memory() -> None:
    (anyport, lru, conntrack) = memory.measure(1, 1)
    assert anyport.median >= 32  # a record; there are empty ones beside it
    assert lru.median > 0
    assert conntrack.median > 0


def test_a_change_is_waited_for() -> None:
    with Cluster(f"{PREFIX}c") as cluster:
        listeners = cluster.listeners(FIRST_PORT, 30)
        for there in (True, False):
            listeners.toggle()
            rows = cluster.lab.client(cluster.distributor).get("ports")
            assert {row["port"] for row in rows} == (set(range(10_000, 10_030)) if there else set())


def test_changes() -> None:
    found = changes.measure(1, 1, many=30, lab=f"{PREFIX}changes")
    assert len(found) == 6
    assert all(series.median > 0 for series in found)


def test_openings() -> None:
    found = opening.measure("control", 1, 1, listeners=6, lab=f"{PREFIX}opening")
    assert {series.subject for series in found} == {ANYPORT, "the disk"}
    assert all(series.median > 0 for series in found)


def test_a_table_that_keeps_up_is_right() -> None:
    with Cluster(f"{PREFIX}churn", hosts=churn.HOSTS) as cluster:
        churn.lag(cluster, 60, 1)
        assert not cluster.lab.client(cluster.distributor).get("ports")


def test_a_wrong_table_is_told() -> None:
    with Cluster(f"{PREFIX}wrong", hosts=churn.HOSTS) as cluster:
        another = cluster.lab.hosts[-1]
        churning = churn.Churning(cluster, 60)
        cluster.player(another, "serve").ask(FIRST_PORT + 5)  # one of the first host's
        churning.go(0.1)
        with pytest.raises(AssertionError, match="not what is open"):
            churning.lag()


def test_takeovers() -> None:
    found = takeover.measure("control", 1, 1, ttls=[2], lab=f"{PREFIX}over")
    medians = {series.row.name: series.median for series in found}
    assert medians["host killed, lease of 2 s: datagrams lost"] > 0
    assert len(medians) == 5


def test_footprint() -> None:
    found = footprint.measure("control", 1, 1, many=20, rate=60, lab=f"{PREFIX}foot")
    assert {series.subject for series in found} == {"anyport, distributor", "anyport, target"}
    assert all(series.median > 0 for series in found)


class Failure(Exception):
    pass


def test_nothing_is_left_of_a_run_that_failed() -> None:
    labs = [Lab(f"{PREFIX}fpeers"), Lab(f"{PREFIX}f0")]
    with pytest.raises(Failure):
        fail(labs)
    assert not any(lab.exists for lab in labs)


def fail(labs: Sequence[Lab]) -> None:
    with world([Variant(ANYPORT)], f"{PREFIX}f"):
        assert all(lab.exists for lab in labs)
        raise Failure
