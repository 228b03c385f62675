# SPDX-License-Identifier: Apache-2.0
"""What must not happen while a part is away: found by trying, kept by these tests."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import IPv4Address

import pytest

from tests.support.lab_cluster import (
    VIP,
    LabCluster,
    Opened,
    eventually,
    lab_cluster,
    neighbour,
)
from tests.support.lab_etcd import LabEtcd
from tests.support.lab_users import HOSTS, healthy
from tests.support.lasting_lab import LastingLab
from tests.support.packets import arp

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VIPS = (VIP, "10.77.0.81", "10.77.0.82", "10.77.0.83")  # more than hosts
TTL = 2


def mortal(word: str) -> AbstractContextManager[LabCluster]:
    return lab_cluster(word, 3, {"vip": VIP}, {"registry": {"ttl": TTL}})


@pytest.fixture(scope="module")
def lasting() -> Iterator[LastingLab]:
    """Leases end soon after their daemons."""
    lab = LastingLab(lambda: mortal("failing"))
    yield lab
    lab.close()


@pytest.fixture
def cluster(lasting: LastingLab) -> Iterator[LabCluster]:
    with lasting.lent(restore) as cluster:
        yield cluster


@pytest.fixture
def fresh() -> Iterator[LabCluster]:
    """Of the two others nobody has distributed, so whatever was fenced there was by this test: a
    former distributor counts for seconds, till it gives the VIP up. For the same reason its leases
    are as long as usual: a busy machine may stand still for longer than the others'."""
    with lab_cluster("fresh", 3, {"vip": VIP}) as cluster:
        yield cluster


def restore(cluster: LabCluster) -> None:
    """One VIP of all hosts, nothing that listens, and all well."""
    operator = cluster.lab.client("host1")
    for row in cluster.noun("vips"):
        if row["vip"] != VIP:
            operator.delete_vip(row["vip"])
        elif row["hosts"] != "all":
            operator.set_vip(VIP, hosts="all")
    cluster.reset()
    eventually(lambda: healthy(cluster), "all to be well")
    assert {row["host"] for row in cluster.noun("hosts")} == set(HOSTS)


def assert_all_live(connections: list[Opened]) -> None:
    """An RST would raise ConnectionResetError."""
    for number, connection in enumerate(connections):
        assert connection.say(str(number)).endswith(str(number))


def test_a_distributor_without_etcd_leaves_the_vip_to_the_next(cluster: LabCluster) -> None:
    """It is fenced by the next one's announcement, and does not fight for the VIP while what it
    knows is out of date; no connection is reset, before, meanwhile, or when etcd is back."""
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    connections = [cluster.client.connect(VIP, 80) for _ in range(20)]
    old = cluster.distributor()
    [witness, *_] = sorted(set(HOSTS) - {old})
    fenced = cluster.packets(old, "fenced")
    with LabEtcd(cluster).cut_off(old):
        eventually(
            lambda: cluster.lab.client(witness).vip(VIP)["distributor"] not in (old, None),
            "a takeover",
        )
        new = cluster.lab.client(witness).vip(VIP)["distributor"]
        eventually(lambda: cluster.packets(old, "fenced") > fenced, "it to be fenced")
        # Until the old one has noticed that its registry is silent, it knows no better.
        eventually(lambda: not cluster.noun("status", old)["registry"]["connected"], "it to notice")
        assert cluster.lab.client(witness).vip(VIP)["distributor"] == new
        assert "another machine on the LAN announced it" not in cluster.log(new)
        assert_all_live(connections)
    eventually(lambda: cluster.noun("status", old)["registry"]["connected"], "it to be back")
    eventually(lambda: cluster.lab.client(old).vip(VIP)["distributor"] == new, "it to see the new")
    cluster.await_targets(80, set(HOSTS))
    assert_all_live(connections)
    assert set(cluster.client.fetch(VIP, 80, 60)) == set(HOSTS)


def test_a_stranger_that_announces_the_vip(cluster: LabCluster) -> None:
    """The distributor stops, asks the registry, and announces itself again."""
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    here = cluster.distributor()
    connections = [cluster.client.connect(VIP, 80) for _ in range(20)]
    stranger, vip = bytes.fromhex("02000000cc01"), IPv4Address(VIP)
    [wire] = cluster.client.do("wire_out", interface="eth0")
    announcement = arp(1, stranger, vip, vip)
    cluster.client.do("send", number=wire, frame=announcement.hex())
    eventually(lambda: "another machine on the LAN announced it" in cluster.log(here), "a fence")
    eventually(lambda: cluster.noun("status", here)["healthy"], "it to have the VIP again")
    assert cluster.distributor() == here
    assert_all_live(connections)
    assert set(cluster.client.fetch(VIP, 80, 60)) == set(HOSTS)


@contextmanager
def killed(cluster: LabCluster, host: str) -> Iterator[None]:
    cluster.lab.kill_daemon(host)
    yield
    cluster.lab.start_daemon(host)


@contextmanager
def frozen(cluster: LabCluster, host: str) -> Iterator[None]:
    with cluster.stopped(host):
        yield


@contextmanager
def cut_off(cluster: LabCluster, host: str) -> Iterator[None]:
    """From etcd, not from the LAN: it distributes until it hears of the next."""
    with LabEtcd(cluster).cut_off(host):
        yield


@pytest.mark.parametrize("how", [killed, frozen, cut_off])
def test_nothing_is_refused_while_another_takes_over(
    fresh: LabCluster, how: Callable[[LabCluster, str], AbstractContextManager[None]]
) -> None:
    """Nor when the one before is back. Of a port with several targets, and of one handed out: the
    next distributor has them in its table before it announces itself."""
    old = fresh.distributor()
    others = sorted(set(HOSTS) - {old})
    for host in others:
        fresh[host].listen(VIP, 80)
    unique = fresh[others[0]].listen(VIP)
    fresh.await_targets(80, set(others))
    fresh.await_targets(unique.port, {others[0]})
    witness = fresh.lab.client(others[0])
    with fresh.traffic(80) as served, fresh.traffic(unique.port) as of_unique:
        with how(fresh, old):
            eventually(lambda: witness.vip(VIP)["distributor"] in others, "a takeover")
            new = witness.vip(VIP)["distributor"]
            eventually(lambda: neighbour(fresh) == fresh.mac(new).hex(":"), "the client to hear")
        eventually(lambda: fresh.noun("status", old)["healthy"], f"{old} to be back")
        eventually(lambda: fresh.lab.client(old).vip(VIP)["distributor"] == new, "it to see")
    assert set(served) == set(others)
    assert set(of_unique) == {others[0]}
    assert witness.vip(VIP)["distributor"] == new
    assert fresh.packets(new, "fenced") == 0, "the one before announced itself once more"


def test_a_distributor_whose_lease_is_revoked_says_everything_again(cluster: LabCluster) -> None:
    """Of two VIPs at least: it loses all offices while it programs the first."""
    for vip in VIPS[1:]:
        cluster.lab.client("host1").add_vip(vip)
    cluster.await_ready()
    for host in HOSTS:
        for vip in VIPS:
            cluster[host].listen(vip, 80)
    for vip in VIPS:
        cluster.await_targets(80, set(HOSTS), vip=vip)
    old, _ = Counter(map(cluster.distributor, VIPS)).most_common()[0]
    pid, lease = cluster.lab.daemon_pid(old), cluster.lease(old)
    connections = [cluster.client.connect(vip, 80) for vip in VIPS for _ in range(5)]
    cluster.revoke(lease)
    eventually(lambda: cluster.lease(old) != lease, "a new lease")
    for host in HOSTS:
        eventually(lambda host=host: cluster.noun("status", host)["healthy"], host)  # type: ignore[misc]
    for vip in VIPS:
        cluster.await_targets(80, set(HOSTS), vip=vip)
        assert set(cluster.client.fetch(vip, 80, 40)) == set(HOSTS)
    assert_all_live(connections)
    assert cluster.lab.daemon_pid(old) == pid


def test_connections_to_a_host_that_is_left_out_live_on(cluster: LabCluster) -> None:
    """Of a host that is not the distributor: the next one would not know the connections."""
    left, *others = sorted(HOSTS, key=lambda host: host == cluster.distributor())
    shared = cluster[left].listen(VIP, 80)
    unique = cluster[left].listen(VIP)
    cluster.await_targets(80, {left})
    cluster.await_targets(unique.port, {left})
    connections = [cluster.client.connect(VIP, opened.port) for opened in (shared, unique)]
    assert_all_live(connections)
    done = cluster.anyport("host1", "vip", "set", VIP, "--hosts", ",".join(others))
    assert done.returncode == 0, done.stderr
    cluster.await_targets(80, set())
    with pytest.raises(ConnectionRefusedError):
        cluster.client.connect(VIP, 80)
    assert_all_live(connections)


def test_a_daemon_that_stands_still_for_longer_than_its_lease(cluster: LabCluster) -> None:
    """A target's: no new connections, the established go on, and it is back by itself."""
    frozen = next(host for host in HOSTS if host != cluster.distributor())
    others = {*HOSTS} - {frozen}
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    only = cluster[frozen].listen(VIP, 81)
    cluster.await_targets(80, set(HOSTS))
    cluster.await_targets(81, {frozen})
    connections = [cluster.client.connect(VIP, 80) for _ in range(20)]
    [witness, *_] = sorted(others)
    with cluster.stopped(frozen):
        eventually(
            lambda: not any(host == frozen for host, *_ in cluster.listeners(witness)),
            "its lease to end",
        )
        assert_refused(cluster, 81)
        assert set(cluster.client.fetch(VIP, 80, 20)) == others
        assert_all_live(connections)
        later = cluster[frozen].listen(VIP, 82)
        only.close()
    cluster.await_targets(80, set(HOSTS))
    cluster.await_targets(82, {frozen})
    cluster.await_targets(81, set())
    said = [line.partition("stood still for ")[2] for line in cluster.log(frozen).splitlines()]
    assert max(float(seconds.removesuffix(" s")) for seconds in said if seconds) > TTL / 2
    assert_all_live(connections)
    assert set(cluster.client.fetch(VIP, 80, 60)) == set(HOSTS)
    later.close()


def assert_refused(cluster: LabCluster, port: int) -> None:
    def refuses() -> bool:
        try:
            cluster.client.connect(VIP, port)
        except ConnectionRefusedError:
            return True
        return False

    eventually(refuses, f"port {port} to be refused")


def test_all_daemons_are_away_for_longer_than_their_leases(cluster: LabCluster) -> None:
    """The former distributor is back alone: what others serve goes to them all the same."""
    first, *_ = sorted(HOSTS, key=lambda host: host != cluster.distributor())
    own, connections = serve_all(cluster)
    kill_all(cluster)
    assert_all_served(cluster, own, connections)
    cluster.lab.start_daemon(first)
    eventually(lambda: is_alone(cluster, first), f"{first} to be alone")
    eventually(lambda: cluster.lab.client(first).vip(VIP)["distributor"], "it to distribute")
    assert_all_live(connections)
    assert reached(cluster, own) == list(HOSTS)
    for host in {*HOSTS} - {first}:
        cluster.lab.start_daemon(host)
    cluster.await_targets(80, set(HOSTS))
    assert_all_served(cluster, own, connections)


def test_all_daemons_come_back_another_one_first(cluster: LabCluster) -> None:
    """It would know nobody else's connections: it waits for the others for a while."""
    old = cluster.distributor()
    first, *others = sorted(HOSTS, key=lambda host: host == old)
    own, connections = serve_all(cluster)
    with cluster.downloads(80, 50):
        kill_all(cluster)
        cluster.lab.start_daemon(first)
        eventually(lambda: is_alone(cluster, first), f"{first} to be alone")
        for host in others:
            cluster.lab.start_daemon(host)
        cluster.await_targets(80, set(HOSTS))
        eventually(lambda: cluster.lab.client(old).vip(VIP)["distributor"], "one to distribute")
    assert_all_served(cluster, own, connections)


def test_the_distributor_restarts_while_a_host_is_absent(cluster: LabCluster) -> None:
    """Its ports are its own, and its connections too."""
    here = cluster.distributor()
    absent = min({*HOSTS} - {here})
    own, connections = serve_all(cluster)
    cluster.lab.kill_daemon(absent)
    LabEtcd(cluster).await_end(absent)
    term = cluster.lab.client(here).vip(VIP)["term"]
    cluster.lab.kill_daemon(here)
    cluster.lab.start_daemon(here)
    eventually(lambda: cluster.lab.client(here).vip(VIP)["term"] == term, "it to go on")
    assert_all_live(connections)
    assert reached(cluster, own) == list(HOSTS)
    cluster.lab.start_daemon(absent)


def serve_all(cluster: LabCluster) -> tuple[list[int], list[Opened]]:
    """A port that only each of HOSTS has, in their order, and connections to one that all have."""
    own = [cluster[host].listen(VIP).port for host in HOSTS]
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    eventually(lambda: reached(cluster, own) == list(HOSTS), "unique ports to be reached")
    return own, [cluster.client.connect(VIP, 80) for _ in range(20)]


def kill_all(cluster: LabCluster) -> None:
    for host in HOSTS:
        cluster.lab.kill_daemon(host)
    LabEtcd(cluster).await_end(*HOSTS)


def reached(cluster: LabCluster, ports: list[int]) -> list[str]:
    return [cluster.client.fetch(VIP, port, 1)[0] for port in ports]


def assert_all_served(cluster: LabCluster, own: list[int], connections: list[Opened]) -> None:
    assert_all_live(connections)
    assert reached(cluster, own) == list(HOSTS)
    assert set(cluster.client.fetch(VIP, 80, 60)) == set(HOSTS)


def test_a_target_whose_link_is_cut(cluster: LabCluster) -> None:
    """As one that is switched off. Its connections wait, and go on when the link is back soon."""
    gone = next(host for host in HOSTS if host != cluster.distributor())
    others = {*HOSTS} - {gone}
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    connections = [cluster.client.connect(VIP, 80) for _ in range(20)]
    [witness, *_] = sorted(others)
    cluster.run("lan", "ip", "link", "set", gone, "down")
    eventually(lambda: is_target(cluster, witness, gone) is False, "its lease to end")
    assert set(cluster.client.fetch(VIP, 80, 20)) == others
    assert_all_live([c for c in connections if c.greeting != gone])
    cluster.run("lan", "ip", "link", "set", gone, "up")
    eventually(lambda: is_target(cluster, witness, gone), "it to be back")
    eventually(lambda: cluster.noun("status", gone)["healthy"], "it to be well")
    assert_all_live(connections)
    assert set(cluster.client.fetch(VIP, 80, 60)) == set(HOSTS)


def test_a_distributor_whose_link_is_cut(cluster: LabCluster) -> None:
    """Another has the VIP after the lease, and keeps it when the link is back."""
    gone = cluster.distributor()
    others = {*HOSTS} - {gone}
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    [witness, *_] = sorted(others)
    cluster.run("lan", "ip", "link", "set", gone, "down")
    eventually(lambda: cluster.lab.client(witness).vip(VIP)["distributor"] in others, "a takeover")
    eventually(lambda: is_target(cluster, witness, gone) is False, "its listeners to be gone")
    new = cluster.lab.client(witness).vip(VIP)["distributor"]
    assert set(cluster.client.fetch(VIP, 80, 20)) == others
    connections = [cluster.client.connect(VIP, 80) for _ in range(20)]
    cluster.run("lan", "ip", "link", "set", gone, "up")
    eventually(lambda: is_target(cluster, witness, gone), "it to be back")
    for host in HOSTS:
        eventually(
            lambda host=host: cluster.lab.client(host).vip(VIP)["distributor"] == new,  # type: ignore[misc]
            f"{host} to see {new}",
        )
        eventually(lambda host=host: cluster.noun("status", host)["healthy"], host)  # type: ignore[misc]
    assert_all_live(connections)
    assert set(cluster.client.fetch(VIP, 80, 60)) == set(HOSTS)


def test_a_lan_that_comes_back_without_etcd(cluster: LabCluster) -> None:
    """The former distributor still takes itself for elected: it hears the present one soon, and
    says nothing itself that the present one would hear."""
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    old = cluster.distributor()
    [witness, *_] = sorted({*HOSTS} - {old})
    with LabEtcd(cluster).cut_off(old):
        cluster.run("lan", "ip", "link", "set", old, "down")
        eventually(
            lambda: cluster.lab.client(witness).vip(VIP)["distributor"] not in (old, None),
            "a takeover",
        )
        new = cluster.lab.client(witness).vip(VIP)["distributor"]
        eventually(lambda: not cluster.noun("status", old)["registry"]["connected"], "it to notice")
        heard = cluster.packets(old, "fenced")
        cluster.run("lan", "ip", "link", "set", old, "up")
        eventually(lambda: cluster.packets(old, "fenced") > heard, "it to be fenced")
        assert old not in cluster.client.fetch(VIP, 80, 20)
        assert "another machine on the LAN announced it" not in cluster.log(new)
    eventually(lambda: cluster.lab.client(old).vip(VIP)["distributor"] == new, "it to see the new")
    cluster.await_targets(80, set(HOSTS))


def test_an_etcd_without_space(cluster: LabCluster) -> None:
    """It keeps leases alive and takes closings, those of a host with openings too: all goes on for
    longer than any lease, and no opening is told; a port of a block is served, as it is routed
    beforehand."""
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    cluster.await_targets(80, set(HOSTS))
    cluster.await_ready()
    first, _ = sorted({*HOSTS} - {cluster.distributor()})  # it would be reached there itself
    connections = [cluster.client.connect(VIP, 80) for _ in range(20)]
    closing = cluster[first].listen(VIP, 81)
    cluster.await_targets(81, {first})
    told = "registry: what this host says cannot be written; retrying"
    with LabEtcd(cluster).without_space():
        cluster[first].listen(VIP, 82)
        given = cluster[first].listen(VIP)
        eventually(lambda: told in cluster.noun("status", first)["problems"], "it to say so")
        closing.close()
        cluster.await_targets(81, set())
        assert cluster.client.fetch(VIP, given.port, 1) == [first]
        assert_refused(cluster, 82)
        later, served = time.monotonic() + 3 * TTL, set[str]()
        while time.monotonic() < later:
            served |= set(cluster.client.fetch(VIP, 80, 20))
        assert served == set(HOSTS)
        assert_all_live(connections)
    cluster.await_targets(82, {first})
    cluster.await_targets(given.port, {first})
    for host in HOSTS:
        eventually(lambda host=host: cluster.noun("status", host)["healthy"], host)  # type: ignore[misc]
    assert_all_live(connections)


def is_alone(cluster: LabCluster, host: str) -> bool:
    """On port 80, as it sees it itself."""
    rows = [row for row in cluster.noun("ports", host) if row["port"] == 80]
    return [[target["host"] for target in row["targets"]] for row in rows] == [[host]]


def is_target(cluster: LabCluster, witness: str, host: str) -> bool:
    """Of port 80, as `witness` has it."""
    [row] = [row for row in cluster.noun("ports", witness) if row["port"] == 80]
    return any(target["host"] == host for target in row["targets"])
