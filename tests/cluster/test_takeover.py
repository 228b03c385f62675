# SPDX-License-Identifier: Apache-2.0
"""Connections survive a takeover: the new distributor asks the hosts whose they are."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3", "host4")
VIP6 = "fd77::80"
DOWNLOADS = 200
LENGTH = 300_000
PORTS = itertools.count(8000, 10)


@pytest.fixture(scope="module")
def shared() -> Iterator[LabCluster]:
    """Leases end soon after their daemons. host1, which is asked throughout, never distributes."""
    settings = {"registry": {"ttl": 2}}
    with lab_cluster("takeover", 4, {"vip": VIP}, settings) as cluster:
        cluster.lab.kill_daemon("host1", signal.SIGTERM)
        cluster.settings("host1", {**settings, "distributor": {"candidate": False}})
        cluster.lab.start_daemon("host1")
        cluster.lab.client("host1").add_vip(VIP6)
        cluster.await_ready()
        yield cluster


@pytest.fixture
def cluster(shared: LabCluster) -> Iterator[LabCluster]:
    yield shared
    for host in HOSTS:
        revive(shared, host)
    eventually(lambda: members(shared) == set(HOSTS), "all to be members")
    shared.reset()


@pytest.fixture
def port() -> int:
    """No other test's, of which connections may be in TIME_WAIT, or in a connection table."""
    return next(PORTS)


def members(cluster: LabCluster) -> set[str]:
    return {row["host"] for row in cluster.noun("hosts")}


def die(cluster: LabCluster, host: str) -> None:
    """The daemon and, for all others, its host: what is sent to it is lost."""
    cluster.run("lan", "ip", "link", "set", host, "down")
    cluster.lab.kill_daemon(host, signal.SIGKILL)


def kill(cluster: LabCluster, host: str) -> None:
    """The daemon alone: its packet program goes on till it hears of another; its host serves."""
    cluster.lab.kill_daemon(host, signal.SIGKILL)


def stop(cluster: LabCluster, host: str) -> None:
    cluster.lab.kill_daemon(host, signal.SIGTERM)


def revive(cluster: LabCluster, host: str) -> None:
    cluster.run("lan", "ip", "link", "set", host, "up")
    if cluster.lab.daemon_pid(host) is None:
        cluster.lab.start_daemon(host)


def taken_over(cluster: LabCluster, old: str, vip: str) -> str:
    """Who has it now, all gathered; as another host sees it."""
    witness = next(host for host in HOSTS if host != old)
    client = cluster.lab.client(witness)
    eventually(lambda: client.vip(vip)["distributor"] not in (old, None), "a takeover")
    new = str(client.vip(vip)["distributor"])
    eventually(lambda: gathered(cluster, new, vip), "it to know the connections")
    return new


def gathered(cluster: LabCluster, host: str, vip: str) -> bool:
    """Whether it has, of its latest term."""
    term = cluster.lab.client(host).vip(vip)["term"]
    said = cluster.log(host).partition(f"vip {vip}: distributing, term {term},")[2]
    return f"vip {vip}: connections of" in said


@contextmanager
def downloads(
    cluster: LabCluster, vip: str, port: int, count: int = DOWNLOADS
) -> Iterator[dict[str, Any]]:
    """Under way meanwhile; what became of them at the end."""
    told: dict[str, Any] = {}
    program = cluster.extra("client")
    program.begin("download", address=vip, port=port, count=count, length=LENGTH)
    yield told
    program.begin("reset")  # any request: go on to the end
    told |= program.end("download")
    program.end("reset")


def begun(cluster: LabCluster, host: str, vip: str, port: int, count: int = DOWNLOADS) -> bool:
    rows = cluster.noun("connections", host)
    return count <= sum((row["vip"], row["port"]) == (vip, port) for row in rows)


@pytest.mark.parametrize(
    ("vip", "method", "leave"),
    [
        (VIP, "round-robin", die),
        (VIP, "hash", die),
        (VIP6, "round-robin", die),
        (VIP, "round-robin", kill),
        (VIP, "hash", kill),
        (VIP6, "round-robin", kill),
        (VIP, "round-robin", stop),
        (VIP6, "hash", stop),
    ],
    ids=[
        *("round-robin", "hash", "ipv6"),
        *("daemon", "daemon-hash", "daemon-ipv6"),
        *("polite", "ipv6-hash-polite"),
    ],
)
def test_no_download_is_lost(
    cluster: LabCluster, vip: str, port: int, method: str, leave: Any
) -> None:
    """And those that have begun through the former distributor till its very end are among them."""
    cluster.lab.client("host1").set_vip(vip, method=method)
    old = cluster.distributor(vip)
    targets = sorted(set(HOSTS) - {old}) if leave is die else HOSTS
    for host in targets:
        cluster[host].do("serve", address=vip, port=port, length=LENGTH)
        cluster[host].listen(vip, port + 1)
    for number in (port, port + 1):
        cluster.await_targets(number, set(targets), vip=vip)
    with downloads(cluster, vip, port) as told:
        eventually(lambda: begun(cluster, old, vip, port), "all to be under way")
        with cluster.connections_begun(port + 1, vip) as served:
            eventually(lambda: begun(cluster, old, vip, port + 1, 5), "others to begin")
            leave(cluster, old)
            new = taken_over(cluster, old, vip)
            cluster.client.fetch(vip, port + 1, 20)
    assert told["wrong"] == []
    assert set(told["served"]) == set(targets)
    assert set(served) <= set(targets)
    assert "not said within" not in cluster.log(new)


def test_an_absent_host_is_asked_when_it_is_back(cluster: LabCluster, port: int) -> None:
    """Its daemon was away for longer than its lease, while another host took over. What nobody
    knows goes there till then; what its listeners had is known from then on."""
    cluster.lab.client("host1").set_vip(VIP, method="round-robin")
    old = cluster.distributor()
    other = min(set(HOSTS) - {old})
    listener = cluster[old].listen(VIP, port)
    cluster.await_targets(port, {old})
    spoken, silent = (cluster.client.connect(VIP, port) for _ in range(2))
    cluster[other].listen(VIP, port)
    cluster.await_targets(port, {old, other})
    kill(cluster, old)
    new = taken_over(cluster, old, VIP)
    assert spoken.say("it is away") == "it is away"
    assert set(cluster.client.fetch(VIP, port, 10)) == {other}
    assert f"vip {VIP}: connections that nobody knows go to {old}" in cluster.log(new)
    revive(cluster, old)
    said = f"vip {VIP}: connections that nobody knows go to no host"
    eventually(lambda: said in cluster.log(new), "it to have said what it has")
    listener.close()
    cluster.await_targets(port, {other})
    assert silent.say("it is back") == "it is back"
    known = {row["client_port"]: row["host"] for row in cluster.noun("connections", new)}
    assert (known[spoken.port], known[silent.port]) == (old, old)


def test_of_several_absent_hosts_those_who_return_keep_their_connections(
    cluster: LabCluster, port: int
) -> None:
    """Two daemons die together and are back in seconds, after a takeover: nobody guessed."""
    cluster.lab.client("host1").set_vip(VIP, method="round-robin")
    old = cluster.distributor()
    also = next(host for host in HOSTS if host not in (old, "host1"))
    for host in HOSTS:
        cluster[host].do("serve", address=VIP, port=port, length=LENGTH)
    cluster.await_targets(port, set(HOSTS))
    with downloads(cluster, VIP, port) as told:
        eventually(lambda: begun(cluster, old, VIP, port), "all to be under way")
        kill(cluster, old)
        kill(cluster, also)
        new = taken_over(cluster, old, VIP)
        revive(cluster, old)
        revive(cluster, also)
        eventually(lambda: members(cluster) == set(HOSTS), "all to be members")
        eventually(lambda: heard_all(cluster, new, VIP), "both to have said what they have")
    assert told["wrong"] == []
    assert set(told["served"]) == set(HOSTS)


def test_who_is_dead_stands_in_for_nobody_for_long(cluster: LabCluster, port: int) -> None:
    """Its clients are reset, and may connect again (R8), once it is known that it is no more."""
    cluster.lab.client("host1").set_vip(VIP, method="round-robin")
    old = cluster.distributor()
    cluster[old].listen(VIP, port)
    cluster.await_targets(port, {old})
    connection = cluster.client.connect(VIP, port)
    die(cluster, old)
    new = taken_over(cluster, old, VIP)
    eventually(lambda: heard_all(cluster, new, VIP), "its death to be noticed")
    with pytest.raises(ConnectionResetError):
        connection.say("who is there")


def heard_all(cluster: LabCluster, host: str, vip: str) -> bool:
    said = cluster.log(host).rpartition(f"vip {vip}: connections that nobody knows go to ")[2]
    return said.startswith("no host")


def test_half_open_connections_are_known(cluster: LabCluster, port: int) -> None:
    """Their handshakes end after the takeover: at a wrong target they would be reset."""
    cluster.lab.client("host1").set_vip(VIP, method="round-robin")
    old = cluster.distributor()
    targets = sorted(set(HOSTS) - {old})
    for host in targets:
        cluster[host].listen(VIP, port, defer=True)
    cluster.await_targets(port, set(targets))
    connections = [cluster.client.connect_quietly(VIP, port) for _ in range(12)]
    die(cluster, old)
    taken_over(cluster, old, VIP)
    greetings = [connection.say("at last") for connection in connections]
    assert {host: greetings.count(host) for host in targets} == dict.fromkeys(targets, 4)


def test_who_returns_takes_nothing_back_and_knows_nothing_stale(
    cluster: LabCluster, port: int
) -> None:
    """keepalived #1225, loxilb #565: a backup that knew no connections, or old ones, reset them.
    Here a client's port is used again meanwhile, to another target."""
    cluster.lab.client("host1").set_vip(VIP, method="round-robin")
    old = cluster.distributor()
    first, second, _ = sorted(set(HOSTS) - {old})
    listener = cluster[first].listen(VIP, port)
    cluster.await_targets(port, {first})
    before = cluster.client.connect(VIP, port, source=port + 20000)
    assert before.greeting == first
    die(cluster, old)
    assert taken_over(cluster, old, VIP) != old
    listener.close()
    cluster[second].listen(VIP, port)
    cluster.await_targets(port, {second})
    before.abort()
    after = cluster.client.connect(VIP, port, source=port + 20000)
    assert after.greeting == second

    revive(cluster, old)
    eventually(lambda: members(cluster) == set(HOSTS), "it to be back")
    assert cluster.distributor() != old
    assert after.say("it is back") == "it is back"
    others = set(HOSTS) - {old}
    for host in others:  # drained, so that none but `old` may follow
        cluster.lab.client(old).drain(host)
    eventually(lambda: cluster.distributor() == old, "it to be the distributor")
    eventually(lambda: gathered(cluster, old, VIP), "it to know the connections")
    assert after.say("and distributes") == "and distributes"
    for host in others:
        cluster.lab.client(old).resume(host)


def test_who_cannot_say_is_waited_for_no_longer_than_it_helps(port: int) -> None:
    """Its daemon stands still: it is named, and what nobody has said is not held up for ever."""
    with lab_cluster("mute", 3, {"vip": VIP}, {"registry": {"ttl": 60}}) as cluster:
        old = cluster.distributor()
        mute, other = sorted(set(HOSTS[:3]) - {old})
        for host in (mute, other):
            cluster[host].listen(VIP, port)
        cluster.await_targets(port, {mute, other})
        connections = [cluster.client.connect(VIP, port) for _ in range(10)]
        cluster.lab.client(old).drain(mute)  # or it might be the next distributor
        with cluster.stopped(mute):
            cluster.lab.kill_daemon(old, signal.SIGTERM)
            client = cluster.lab.client(other)
            eventually(lambda: client.vip(VIP)["distributor"] == other, "a takeover")
            assert cluster.client.fetch(VIP, port, 20)  # new ones are served at once
            eventually(lambda: gathered(cluster, other, VIP), "it to go on without")
        said = cluster.log(other)
        assert f"vip {VIP}: not said within 2 s which connections they have: {mute}" in said
        known = [c for c in connections if c.greeting == other]
        assert [c.say("on") for c in known] == ["on"] * len(known)


def test_a_restart_asks_nobody(cluster: LabCluster, port: int) -> None:
    """The maps know the connections, and the tenure is the same."""
    cluster["host1"].listen(VIP, port)
    cluster.await_targets(port, {"host1"})
    connection = cluster.client.connect(VIP, port)
    host, term = cluster.distributor(), cluster.lab.client("host1").vip(VIP)["term"]
    with cluster.watched("/anyport/v1/hosts/") as watch:
        cluster.lab.kill_daemon(host)
        cluster.lab.start_daemon(host)
        later = cluster["host2"].listen(VIP, port)
        changes = watch.until(f"/hosts/host2/listeners/{VIP}/tcp/{port}")
    assert not [change for change in changes if "/connections/" in change]
    assert cluster.lab.client("host1").vip(VIP)["term"] == term
    assert connection.say("on") == "on"
    later.close()


def test_what_is_not_asked_for_is_not_believed(cluster: LabCluster, port: int) -> None:
    """A host that says others' connections are its own, of an older term (IBM PM74276), of a VIP
    that leaves it out, or nothing that could be read: nobody's connection is moved."""
    cluster.lab.client("host1").set_vip(VIP, method="round-robin")
    old = cluster.distributor()
    target, liar, _ = sorted(set(HOSTS) - {old})
    cluster[target].listen(VIP, port)
    cluster.await_targets(port, {target})
    connection = cluster.client.connect(VIP, port)
    source = ip_address(cluster.client_address(VIP)).packed
    rows = base64.b64encode(source + struct.pack("!HH", connection.port, port)).decode()
    term = cluster.lab.client("host1").vip(VIP)["term"]
    lie = json.dumps({"v": 1, "term": term, "pieces": 1, "rows": rows})
    prefix = f"/anyport/v1/hosts/{liar}/connections"
    for key, value in (
        (f"{prefix}/{VIP}/1", lie),
        (f"{prefix}/{VIP}/2", '{"v":1,"term":1,"pieces":65,"rows":""}'),
        (f"{prefix}/{VIP}/64", lie),
        (f"{prefix}/10.77.0.99/0", lie),
    ):
        cluster.write("put", key, value)
    stop(cluster, old)
    new = taken_over(cluster, old, VIP)
    assert connection.say("still") == "still"
    [row] = [r for r in cluster.noun("connections", new) if r["client_port"] == connection.port]
    assert row["host"] == target
    for key in (f"{VIP}/1", f"{VIP}/2", f"{VIP}/64", "10.77.0.99/0"):
        cluster.write("delete", f"{prefix}/{key}")
