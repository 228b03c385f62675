# SPDX-License-Identifier: Apache-2.0
"""Leaving politely: drained hosts, daemons that stop, VIPs that are deleted."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
SECOND = "10.77.0.81"
PORTS = itertools.count(8000, 10)


@pytest.fixture(scope="module")
def lasting() -> Iterator[LabCluster]:
    """Leases outlast every restart."""
    with lab_cluster("drain", 3, {"vip": VIP}, {"registry": {"ttl": 120}}) as cluster:
        yield cluster


@pytest.fixture
def cluster(lasting: LabCluster) -> Iterator[LabCluster]:
    yield lasting
    for host in HOSTS:
        if lasting.lab.daemon_pid(host) is None:
            lasting.lab.start_daemon(host)
        lasting.lab.client("host1").resume(host)
    eventually(lambda: lasting.distributor() in HOSTS, "a distributor")
    lasting.reset()


@pytest.fixture
def port() -> int:
    """No other test's: what it left in a connection table is of no concern then."""
    return next(PORTS)


def others(cluster: LabCluster) -> list[str]:
    """Than the distributor, which no drain of theirs replaces."""
    distributor = cluster.distributor()
    return [host for host in HOSTS if host != distributor]


def said(cluster: LabCluster, host: str, *words: str) -> str:
    done = cluster.anyport(host, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def row(cluster: LabCluster, host: str) -> dict[str, Any]:
    [found] = [row for row in cluster.noun("hosts") if row["host"] == host]
    return dict(found)


# ---- anyport drain, anyport resume ----


def test_no_new_connections_and_the_established_go_on(cluster: LabCluster, port: int) -> None:
    drained, other = others(cluster)
    cluster[drained].listen(VIP, port)
    cluster.await_targets(port, {drained})
    connections = [cluster.client.connect(VIP, port) for _ in range(3)]
    cluster[other].listen(VIP, port)
    cluster.await_targets(port, {drained, other})
    with cluster.traffic(port) as served:
        said(cluster, "host1", "drain", drained)
        assert cluster.client.fetch(VIP, port, 40) == [other] * 40
    assert {drained, other} >= set(served)
    assert [c.say("on") for c in connections] == ["on"] * 3

    shown = row(cluster, drained)
    assert (shown["state"], row(cluster, other)["state"]) == ("draining", "active")
    assert shown["draining_since"] is not None
    eventually(lambda: row(cluster, drained)["connections_left"] == 3, "them to be counted")
    [told] = cluster.noun("status", other)["draining"]
    assert (told["host"], told["connections_left"]) == (drained, 3)

    said(cluster, drained, "resume")  # this host, by default
    cluster.await_targets(port, {drained, other})
    assert set(cluster.client.fetch(VIP, port, 40)) == {drained, other}
    assert row(cluster, drained)["draining_since"] is None


def test_a_flow_of_datagrams_stays_and_new_ones_go_elsewhere(
    cluster: LabCluster, port: int
) -> None:
    for host in HOSTS:
        cluster[host].bind_udp(VIP, port)
    cluster.await_targets(port, set(HOSTS), "udp")
    flows = {}
    for source in range(40001, 40031):
        [flows[source]] = cluster.client.ask_udp(VIP, port, source=source)
    drained, _ = others(cluster)
    said(cluster, "host1", "drain", drained)
    for source, host in flows.items():
        assert cluster.client.ask_udp(VIP, port, source=source) == [host]
    assert drained in flows.values()
    assert drained not in cluster.client.ask_udp(VIP, port, 40)
    said(cluster, "host1", "resume", drained)


def test_waiting_until_they_have_finished(cluster: LabCluster, port: int) -> None:
    drained, _ = others(cluster)
    cluster[drained].listen(VIP, port)
    cluster.await_targets(port, {drained})
    connection = cluster.client.connect(VIP, port)
    done = cluster.anyport("host1", "drain", drained, "--wait", "2")
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"new connections are refused: {VIP} {port}/tcp" in done.stderr
    assert done.stderr.endswith(f"{drained} drains: 1 connection left\n")
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, port)
    connection.close()
    assert said(cluster, "host1", "drain", drained, "--wait") == f"{drained} is drained"
    shown = json.loads(said(cluster, "host1", "drain", drained, "--wait", "--json"))
    assert (shown["host"], shown["connections_left"]) == (drained, 0)


def test_unique_ports_stay_routed_and_are_handed_out(cluster: LabCluster) -> None:
    """An FTP session that is established opens its data connections still."""
    drained, _ = others(cluster)
    before = cluster[drained].listen(VIP)
    cluster.await_targets(before.port, {drained})
    said(cluster, "host1", "drain", drained)
    after = cluster[drained].listen(VIP)
    for opened in (before, after):
        assert cluster.client.fetch(VIP, opened.port, 3) == [drained] * 3


def test_a_drain_outlasts_the_daemon(cluster: LabCluster, port: int) -> None:
    """Also while it is away: the wish is the operator's, not the host's."""
    drained, other = others(cluster)
    for host in (drained, other):
        cluster[host].listen(VIP, port)
    cluster.await_targets(port, {drained, other})
    since = json.loads(said(cluster, other, "drain", drained, "--json"))["draining_since"]
    cluster.leave(drained)
    eventually(lambda: len(cluster.noun("hosts", other)) == 2, "it to be gone")
    [told] = cluster.noun("status", other)["draining"]
    assert (told["host"], told["member"]) == (drained, False)
    cluster.lab.start_daemon(drained)
    eventually(
        lambda: (drained, "tcp", port) in cluster.listeners(other), "its listener to be told"
    )
    assert cluster.targets(port) == {other}
    assert row(cluster, drained)["draining_since"] == since
    assert cluster.client.fetch(VIP, port, 20) == [other] * 20
    said(cluster, other, "resume", drained)
    cluster.await_targets(port, {drained, other})


def test_a_drained_distributor_hands_the_vip_on(cluster: LabCluster, port: int) -> None:
    """Nothing is refused meanwhile, and it is elected no more."""
    old = cluster.distributor()
    target, third = others(cluster)
    cluster[target].listen(VIP, port)
    cluster.await_targets(port, {target})
    with cluster.traffic(port) as served:
        shown = json.loads(said(cluster, old, "drain", "--wait", "--json"))
        cluster.client.fetch(VIP, port, 50)
    assert set(served) == {target}
    assert shown["distributes"] == []
    new = cluster.distributor()
    assert new != old
    # The next one dies, and who was drained is passed over.
    cluster.leave(new)
    eventually(lambda: cluster.distributor() in {target, third} - {new}, "the third")
    cluster.lab.start_daemon(new)
    said(cluster, new, "resume", old)
    vips = cluster.noun("status", old)["vips"]
    assert [vip["candidate"] for vip in vips] == [True]
    assert cluster.distributor() != old  # nobody is preempted


def test_what_ended_under_the_next_distributor_is_forgotten(cluster: LabCluster, port: int) -> None:
    """A client's port is used again once the VIP has come back; the old target listens no more."""
    first = cluster.distributor()
    old, new = others(cluster)
    opened = cluster[old].listen(VIP, port)
    cluster.await_targets(port, {old})
    connection = cluster.client.connect(VIP, port, source=20000)
    assert connection.greeting == old
    said(cluster, first, "drain", "--wait")
    second = cluster.distributor()
    connection.abort()
    opened.close()
    cluster[new].listen(VIP, port)
    cluster.await_targets(port, {new})
    said(cluster, first, "resume")
    for host in {*HOSTS} - {first, second}:
        said(cluster, first, "drain", host)
    said(cluster, first, "drain", second, "--yes")
    assert cluster.distributor() == first
    said(cluster, first, "resume", new)
    cluster.await_targets(port, {new})
    assert cluster.client.connect(VIP, port, source=20000).greeting == new


def test_the_last_that_could_distribute_is_not_drained_by_accident(cluster: LabCluster) -> None:
    last = cluster.distributor()
    cluster[last].listen(VIP)
    for host in others(cluster):
        said(cluster, last, "drain", host)
    done = cluster.anyport(last, "drain")
    assert (done.returncode, done.stdout) == (1, "")
    line = f"anyport: no host but {last} could distribute {VIP}; `--yes` drains it all the same\n"
    assert done.stderr == line
    assert row(cluster, last)["state"] == "active"
    said(cluster, last, "drain", "--yes")
    assert row(cluster, last)["state"] == "draining"


def test_a_host_that_nobody_knows(cluster: LabCluster) -> None:
    for verb in ("drain", "resume"):
        done = cluster.anyport("host1", verb, "host9")
        assert (done.returncode, done.stdout) == (2, "")
        assert "host 'host9' is not known; those that are: host1, host2, host3" in done.stderr
    assert "host1 takes new connections" in said(cluster, "host2", "resume", "host1")


# ---- SIGTERM of anyport run ----


@pytest.mark.parametrize("distributes", [True, False])
def test_a_polite_restart_refuses_nothing(
    cluster: LabCluster, port: int, distributes: bool
) -> None:
    """The distributor's, and that of a port's only target, under traffic to both ports."""
    target, second = others(cluster)
    stopped = cluster.distributor() if distributes else target
    cluster[target].listen(VIP, port)  # it alone
    for host in HOSTS:
        cluster[host].listen(VIP, port + 1)
    cluster.await_targets(port, {target})
    cluster.await_targets(port + 1, set(HOSTS))
    connections = [cluster.client.connect(VIP, number) for number in (port, *[port + 1] * 4)]
    prefix = f"/anyport/v1/hosts/{stopped}/listeners/"
    with (
        cluster.watched(prefix) as watch,
        cluster.traffic(port) as served,
        cluster.traffic(port + 1) as served_by_all,
    ):
        cluster.lab.kill_daemon(stopped, signal.SIGTERM)
        new = cluster.lab.client(second).vip(VIP)["distributor"]
        assert (new != stopped) or not distributes
        cluster.client.fetch(VIP, port + 1, 20)
        assert [c.say("without it") for c in connections] == ["without it"] * 5
        cluster.lab.start_daemon(stopped)
        cluster.client.fetch(VIP, port + 1, 20)
        later = cluster[stopped].listen(VIP, port + 2)
        assert watch.until(f"/{port + 2}") == []  # nothing was withdrawn
    assert set(served) == {target}
    assert set(served_by_all) == set(HOSTS)
    assert [c.say("with it") for c in connections] == ["with it"] * 5
    later.close()


def test_who_nobody_can_follow_stays_the_distributor(cluster: LabCluster, port: int) -> None:
    """Over its restart: its VIP is as it was, and packets go on."""
    last = cluster.distributor()
    for host in others(cluster):
        said(cluster, last, "drain", host)
    cluster[last].listen(VIP, port)
    cluster.await_targets(port, {last})
    before = cluster.lab.client(last).vip(VIP)
    witness = others(cluster)[0]
    with cluster.traffic(port) as served:
        cluster.lab.kill_daemon(last, signal.SIGTERM)
        assert cluster.lab.client(witness).vip(VIP) == before
        cluster.client.fetch(VIP, port, 20)
        cluster.lab.start_daemon(last)
    assert set(served) == {last}
    assert cluster.lab.client(last).vip(VIP) == before


# ---- anyport vip delete ----


def test_a_vip_with_live_connections_is_deleted_at_a_yes_only(
    cluster: LabCluster, port: int
) -> None:
    said(cluster, "host1", "vip", "add", SECOND)
    distributor = cluster.distributor(SECOND)
    target = next(host for host in HOSTS if host != distributor)
    cluster[target].listen(SECOND, port)
    cluster.await_targets(port, {target}, vip=SECOND)
    connections = [cluster.client.connect(SECOND, port) for _ in range(2)]
    told = f"1 listener ({target} 1), 2 connections ({target} 2)"

    done = cluster.anyport(distributor, "vip", "delete", SECOND)
    assert (done.returncode, done.stdout) == (1, "")
    line = f"anyport: vip {SECOND}: {told}; `--yes` deletes it all the same\n"
    assert done.stderr == line
    unknowing = next(host for host in HOSTS if host not in (distributor, target))
    done = cluster.anyport(unknowing, "vip", "delete", SECOND)
    assert done.returncode == 1
    assert f"which {distributor} knows" in done.stderr
    assert [c.say("on") for c in connections] == ["on"] * 2

    done = cluster.anyport(distributor, "vip", "delete", SECOND, "--yes")
    assert (done.returncode, done.stdout) == (0, f"vip {SECOND} is deleted: {told}\n")
    assert [row["vip"] for row in cluster.noun("vips")] == [VIP]


def test_a_vip_without_connections_is_deleted_at_once(cluster: LabCluster) -> None:
    said(cluster, "host1", "vip", "add", SECOND)
    distributor = cluster.distributor(SECOND)
    shown = json.loads(said(cluster, distributor, "vip", "delete", SECOND, "--json"))
    assert shown == {
        "vip": SECOND,
        "distributor": distributor,
        "listeners": {},
        "connections": {},
        "pending": None,
    }
