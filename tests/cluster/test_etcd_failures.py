# SPDX-License-Identifier: Apache-2.0
"""etcd stands still, forgets what led to the present, or comes back with nothing.

Packets go on from the last state; once it answers, all is as it was and nothing is there twice.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from anyport.lab.lab import Settings
from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster
from tests.support.lab_etcd import LabEtcd
from tests.support.lab_users import HOSTS, Users, await_state, healthy, state

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

TTL = 2


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[LabCluster]:
    ttl = getattr(request, "param", TTL)
    with lab_cluster("storeless", 3, {"vip": VIP}, {"registry": {"ttl": ttl}}) as cluster:
        yield cluster


@pytest.fixture
def hasty() -> Iterator[LabCluster]:
    """Of two hosts; their ports are handed out for 5 s without the registry: its least."""
    settings: Settings = {"registry": {"ttl": TTL}, "blocks": {"quarantine": 10.0}}
    with lab_cluster("hasty", 2, {"vip": VIP}, settings) as cluster:
        yield cluster


@pytest.fixture
def etcd(cluster: LabCluster) -> LabEtcd:
    return LabEtcd(cluster)


def test_a_frozen_etcd(cluster: LabCluster, etcd: LabEtcd) -> None:
    """For longer than any lease: all expire at once when it goes on."""
    users = Users(cluster)
    before = state(cluster)
    told = {}
    with etcd.frozen():
        for host in HOSTS:
            eventually(
                lambda host=host: (  # type: ignore[misc]
                    cluster.noun("status", host)["registry"]["stale_seconds"] > 2 * TTL
                ),
                f"{host} to be out of date",
            )
            users.are_served()
            assert state(cluster, host) == before
            told[host] = cluster.noun("status", host)
        opened = cluster["host2"].listen(VIP, 81)
        given = cluster["host1"].listen(VIP)  # of a block that is routed since before
        assert cluster.client.fetch(VIP, given.port, 1) == ["host1"]
    for status in told.values():
        assert not status["registry"]["connected"]
        since = status["registry"]["stale_since"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", since)
        assert any(since in problem for problem in status["problems"])
    cluster.await_targets(81, {"host2"})
    cluster.await_targets(given.port, {"host1"})
    eventually(lambda: healthy(cluster), "all to be well")
    users.are_served()
    opened.close()
    given.close()
    await_state(cluster, before)


def test_nothing_is_refused_when_all_leases_ended_at_once(
    cluster: LabCluster, etcd: LabEtcd
) -> None:
    """Nobody could renew one while etcd stood still, the distributor neither: the hosts live, and
    one whose daemon is away then still serves what it has."""
    here = cluster.distributor()
    only, away = sorted({*HOSTS} - {here})
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster[only].listen(VIP, 81)
    cluster.await_targets(80, set(HOSTS))
    cluster.await_targets(81, {only})
    for longer in (1.0, 1.4, 1.8):
        leases = {host: cluster.lease(host) for host in (here, only)}
        with cluster.traffic(80), cluster.traffic(81) as of_one:
            with etcd.frozen():
                end = time.monotonic() + TTL + longer
                if cluster.lab.daemon_pid(away):
                    cluster.lab.kill_daemon(away)
                eventually(lambda: time.monotonic() > end, "leases to end")  # noqa: B023
            for host, lease in leases.items():
                eventually(lambda: cluster.lease(host) != lease, host)  # noqa: B023
            eventually(lambda: _is_told(cluster, {here, only}), "them to say all again")
        assert set(of_one) == {only}


def _is_told(cluster: LabCluster, hosts: set[str]) -> bool:
    """What these have, at each of them, and one of them distributes."""
    wanted = {(host, "tcp", 80) for host in hosts}
    return all(
        wanted <= cluster.listeners(host)
        and cluster.lab.client(host).vip(VIP)["distributor"] in hosts
        for host in hosts
    )


def test_ports_are_handed_out_until_their_deadline(hasty: LabCluster) -> None:
    """Half a quarantine after the last word to the registry: from then on they may be another's."""
    host = hasty["host1"]
    with LabEtcd(hasty).frozen():
        given = host.listen(VIP)
        for name in hasty.lab.hosts:
            eventually(lambda name=name: _handed_out(hasty, name), name)  # type: ignore[misc]
            problems = hasty.noun("status", name)["problems"]
            assert any(problem.startswith("port blocks: ") for problem in problems)
        with pytest.raises(OSError, match="in use"):
            host.listen(VIP)
        assert hasty.client.fetch(VIP, given.port, 1) == ["host1"]
    eventually(lambda: not hasty.noun("status")["problems"], "all to be well")
    assert hasty.client.fetch(VIP, host.listen(VIP).port, 1) == ["host1"]
    assert "found no free port" not in hasty.log("host1")


@pytest.mark.parametrize("cluster", [140], indirect=True)
def test_an_emptied_etcd(cluster: LabCluster, etcd: LabEtcd) -> None:
    """The port table is not emptied, as no host waits for its lease to find it gone. Only the
    operator's definitions nobody may write for him."""
    users = Users(cluster)
    before = state(cluster)
    distributor, revision = cluster.lab.client("host1").vip(VIP), _revision(cluster)
    etcd.restart_empty()

    def is_another_store(host: str) -> bool:
        users.are_served()
        assert state(cluster, host) == before
        status = cluster.noun("status", host)
        registry = status["registry"]
        return bool(registry["connected"] and registry["revision"] < revision)

    for host in HOSTS:
        eventually(lambda host=host: is_another_store(host), host)  # type: ignore[misc]
    opened = cluster["host2"].listen(VIP, 81)
    cluster.await_targets(81, {"host2"})
    opened.close()
    cluster.await_targets(81, set())
    for host in HOSTS:
        eventually(lambda host=host: _kept(cluster, host) == distributor, host)  # type: ignore[misc]
        [problem] = cluster.noun("status", host)["problems"]
        assert "vip add" in problem
        assert "for the host that is away" not in cluster.log(host)
    assert cluster.anyport("host1", "vip", "add", VIP).returncode == 0
    eventually(lambda: healthy(cluster), "all to be well")
    await_state(cluster, before)
    users.are_served()


def test_a_vip_that_went_with_an_emptied_etcd_can_be_deleted(
    cluster: LabCluster, etcd: LabEtcd
) -> None:
    """It is in force on every host, though no store has it."""
    etcd.restart_empty()
    for host in HOSTS:
        eventually(lambda host=host: "vip add" in _problems(cluster, host), host)  # type: ignore[misc]
    refused = cluster.anyport("host2", "vip", "set", VIP, "--method", "round-robin")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"`anyport vip add {VIP}` says it again" in refused.stderr
    deleted = cluster.anyport("host2", "vip", "delete", VIP, "--yes")
    assert deleted.returncode == 0, deleted.stderr
    for host in HOSTS:
        eventually(lambda host=host: not cluster.noun("vips", host), host)  # type: ignore[misc]
        assert _problems(cluster, host) == ""


def test_a_drain_that_went_with_an_emptied_etcd(cluster: LabCluster, etcd: LabEtcd) -> None:
    """It is named, on all hosts, till the operator says it again."""
    away = next(host for host in HOSTS if host != cluster.distributor())
    line = f"host {away}: drained no more"

    def named(host: str) -> list[str]:
        return [problem for problem in cluster.noun("status", host)["problems"] if line in problem]

    assert cluster.anyport("host1", "drain", away).returncode == 0
    etcd.restart_empty()
    for host in HOSTS:
        eventually(lambda host=host: named(host), host)  # type: ignore[misc]
        assert line in cluster.log(host)
    assert cluster.noun("drains") == []
    for verb in ("drain", "resume"):
        assert cluster.anyport("host1", verb, away).returncode == 0
    assert cluster.anyport("host1", "vip", "add", VIP).returncode == 0
    eventually(lambda: healthy(cluster), "all to be well")


@pytest.mark.parametrize("cluster", [140], indirect=True)
def test_a_drain_that_is_said_again_before_all_is(cluster: LabCluster, etcd: LabEtcd) -> None:
    """To hosts that show still what was in the store that is gone: it is written all the same."""
    away = next(host for host in HOSTS if host != cluster.distributor())
    [operator, _] = sorted({*HOSTS} - {away})
    drain = f"/anyport/v1/drains/{away}"
    assert cluster.anyport(operator, "drain", away).returncode == 0
    with cluster.stopped(away):  # nobody shows the new store before this one had time to say all
        etcd.restart_empty()
        eventually(lambda: settles(cluster, operator), f"{operator} to see another store")
        said = cluster.anyport(operator, "drain", away)
        assert said.returncode == 0 or "it is stored" in said.stderr
        assert drain in etcd.stored()
    assert cluster.anyport(operator, "vip", "add", VIP).returncode == 0
    eventually(lambda: healthy(cluster), "all to be well")
    for host in HOSTS:
        assert [row["host"] for row in cluster.noun("drains", host)] == [away]
        assert "drained no more" not in cluster.log(host)


def settles(cluster: LabCluster, host: str) -> bool:
    problems = cluster.noun("status", host)["problems"]
    return any("another store than before" in problem for problem in problems)


def test_a_restart_while_the_definitions_are_gone(cluster: LabCluster, etcd: LabEtcd) -> None:
    """The others know what is in force, and that host can be told, though they have the VIP."""
    users = Users(cluster)
    revision = _revision(cluster)
    etcd.restart_empty()
    eventually(lambda: _revision(cluster) < revision, "host1 to see the other store")
    again = next(h for h in HOSTS if h != cluster.distributor())
    cluster.lab.kill_daemon(again)
    cluster.lab.start_daemon(again)
    cluster.await_targets(80, set(HOSTS))
    users.are_served()
    assert f"vip {VIP}: removed from lo" not in cluster.log(again)
    done = cluster.anyport(again, "vip", "add", VIP)
    assert done.returncode == 0, done.stderr
    eventually(lambda: healthy(cluster), "all to be well")
    users.are_served()


def test_a_distributor_that_begins_anew_in_an_emptied_etcd(
    cluster: LabCluster, etcd: LabEtcd
) -> None:
    """It knows of no tenure: neither it waits for the others for ever, nor they for it."""
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    old = cluster.distributor()
    others = sorted(set(HOSTS) - {old})
    revision = _revision(cluster, others[0])
    cluster.lab.kill_daemon(old)
    etcd.restart_empty()
    candidacies = {f"/anyport/v1/hosts/{host}/candidates/{VIP}" for host in others}
    eventually(lambda: candidacies <= set(etcd.stored()), "the others to be candidates again")
    cluster.lab.start_daemon(old)  # the last of them, by age
    cluster.lab.client(old).add_vip(VIP)
    for host in others:
        eventually(lambda host=host: _revision(cluster, host) < revision, host)  # type: ignore[misc]
    eventually(lambda: healthy(cluster), "one to be elected by all")
    assert len({_kept(cluster, host)["distributor"] for host in HOSTS}) == 1
    cluster.await_targets(80, set(HOSTS))
    assert set(cluster.client.fetch(VIP, 80, 60)) == set(HOSTS)


def test_blocks_of_a_host_that_is_away_when_etcd_is_emptied(
    cluster: LabCluster, etcd: LabEtcd
) -> None:
    """Its programs have their ports in use, and nobody else may be given them."""
    users = Users(cluster)
    away = next(host for host in HOSTS if host != cluster.distributor())
    [witness] = {*HOSTS} - {away, cluster.distributor()}
    blocks = state(cluster, witness)["blocks"]
    cluster.lab.kill_daemon(away)
    eventually(lambda: away not in state(cluster, witness)["hosts"], f"{away} to be gone")
    revision = _revision(cluster, witness)
    prefix = f"/anyport/v1/hosts/{away}/blocks/"
    claims = {key for key in etcd.stored() if key.startswith(prefix)}
    etcd.restart_empty()
    eventually(lambda: _revision(cluster, witness) < revision, "another store")
    eventually(lambda: claims <= set(etcd.stored()), "the claims to be there")
    assert state(cluster, witness)["blocks"] == blocks
    cluster.lab.start_daemon(away)
    eventually(lambda: state(cluster, away)["blocks"] == blocks, f"{away} to have its blocks")
    users.are_served()


def test_a_compaction_while_a_host_is_cut_off(cluster: LabCluster, etcd: LabEtcd) -> None:
    """What happened meanwhile is not in any history that it could read."""
    users = Users(cluster)
    alone = next(host for host in HOSTS if host != cluster.distributor())
    others = [host for host in HOSTS if host != alone]
    gone = cluster[others[0]].listen(VIP, 81)
    for host in HOSTS:
        eventually(lambda host=host: (others[0], "tcp", 81) in cluster.listeners(host), host)  # type: ignore[misc]
    with etcd.cut_off(alone):
        eventually(lambda: not cluster.noun("status", alone)["registry"]["connected"], alone)
        gone.close()
        cluster[others[1]].listen(VIP, 82)
        for port, present in ((81, False), (82, True)):
            eventually(
                lambda port=port, present=present: (  # type: ignore[misc]
                    any(p == port for *_, p in cluster.listeners(others[0])) is present
                ),
                f"{others[0]} to know of port {port}",
            )
        etcd.compact(others[0])
        users.are_served()
    eventually(lambda: healthy(cluster), "all to be well")
    for host in HOSTS:
        eventually(lambda host=host: state(cluster, host) == state(cluster), host)  # type: ignore[misc]
    cluster.await_targets(80, set(HOSTS))
    cluster.await_targets(81, set())
    cluster.await_targets(82, {others[1]})
    users.are_served()


def _revision(cluster: LabCluster, host: str = "host1") -> int:
    return int(cluster.noun("status", host)["registry"]["revision"])


def _problems(cluster: LabCluster, host: str) -> str:
    return "\n".join(cluster.noun("status", host)["problems"])


def _kept(cluster: LabCluster, host: str) -> Any:
    return cluster.lab.client(host).vip(VIP)


def _handed_out(cluster: LabCluster, host: str) -> bool:
    """Its log says that it hands no more ports out."""
    return "bind(VIP, 0) gets EADDRINUSE" in cluster.log(host)
