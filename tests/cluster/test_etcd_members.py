# SPDX-License-Identifier: Apache-2.0
"""An etcd of three members, of which some end, stand still, are slow or out of reach.

Packets go on in any case. While a majority is within a host's reach so does all else; once it is
again, all is as it was: nothing is lost, and nothing is there twice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from anyport.lab import Lab
from tests.support.etcd_members import ADDRESSES, EtcdMembers
from tests.support.lab_cluster import VIP, LabCluster, eventually
from tests.support.lab_etcd import unheard
from tests.support.lab_users import HOSTS, Users, await_state, healthy, state

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("etcd") is None, reason="needs root and etcd"
)

TTL = 2


@pytest.fixture(scope="module")
def built() -> Iterator[tuple[LabCluster, EtcdMembers]]:
    with Lab(f"members{os.getpid()}") as lab:
        lab.build(hosts=3)
        members = EtcdMembers(lab)
        for host in HOSTS:
            lab.configure(host, {"registry": {"endpoints": members.endpoints, "ttl": TTL}})
            lab.start_daemon(host)
        cluster = LabCluster(lab)
        assert cluster.anyport("host1", "vip", "add", VIP).returncode == 0
        cluster.await_ready()
        yield cluster, members
        cluster.close()


@pytest.fixture
def members(built: tuple[LabCluster, EtcdMembers]) -> EtcdMembers:
    return built[1]


@pytest.fixture
def cluster(built: tuple[LabCluster, EtcdMembers]) -> Iterator[LabCluster]:
    cluster, _ = built
    eventually(lambda: healthy(cluster), "all to be well")
    yield cluster
    cluster.reset()


def assert_told(cluster: LabCluster, host: str, port: int) -> None:
    """What opens and closes reaches every host."""
    opened = cluster[host].listen(VIP, port)
    for witness in HOSTS:
        eventually(
            lambda witness=witness: (host, "tcp", port) in cluster.listeners(witness),  # type: ignore[misc]
            f"{witness} to hear of {host}'s port {port}",
        )
    opened.close()
    for witness in HOSTS:
        eventually(
            lambda witness=witness: (host, "tcp", port) not in cluster.listeners(witness),  # type: ignore[misc]
            f"{witness} to hear that {host}'s port {port} closed",
        )


def is_out_of_date(cluster: LabCluster, host: str) -> bool:
    """And says so, and since when."""
    status = cluster.noun("status", host)
    since = status["registry"]["stale_since"]
    return since is not None and any(since in problem for problem in status["problems"])


def first(members: EtcdMembers) -> str:
    """The one that all daemons speak to, until it fails them."""
    return ADDRESSES[0]


@pytest.mark.parametrize("which", [first, EtcdMembers.leader])
def test_one_member_is_killed(
    cluster: LabCluster, members: EtcdMembers, which: Callable[[EtcdMembers], str]
) -> None:
    users = Users(cluster)
    before = state(cluster)
    with members.without(which(members)):
        users.are_served()
        assert_told(cluster, "host2", 81)
        eventually(lambda: healthy(cluster), "all to be well without it")
        users.are_served()
        assert state(cluster)["hosts"] == list(HOSTS)
    assert_told(cluster, "host3", 82)
    await_state(cluster, before)
    users.are_served()


@pytest.mark.parametrize("number", [2, 3])
def test_a_majority_stands_still(cluster: LabCluster, members: EtcdMembers, number: int) -> None:
    """For longer than any lease."""
    users = Users(cluster)
    before = state(cluster)
    with members.frozen(*ADDRESSES[:number]):
        for host in HOSTS:
            eventually(lambda host=host: is_out_of_date(cluster, host), host)  # type: ignore[misc]
            eventually(
                lambda host=host: (  # type: ignore[misc]
                    cluster.noun("status", host)["registry"]["stale_seconds"] > TTL
                ),
                f"{host} to be out of date for longer",
            )
            assert state(cluster, host) == before
        opened = cluster["host1"].listen(VIP, 81)
        users.are_served()
    cluster.await_targets(81, {"host1"})
    opened.close()
    eventually(lambda: healthy(cluster), "all to be well")
    await_state(cluster, before)
    users.are_served()


def test_a_majority_is_killed(cluster: LabCluster, members: EtcdMembers) -> None:
    users = Users(cluster)
    before = state(cluster)
    with members.without(*ADDRESSES[:2]):
        for host in HOSTS:
            eventually(lambda host=host: is_out_of_date(cluster, host), host)  # type: ignore[misc]
        opened = cluster["host2"].listen(VIP, 81)
        users.are_served()
    cluster.await_targets(81, {"host2"})
    opened.close()
    eventually(lambda: healthy(cluster), "all to be well")
    await_state(cluster, before)
    users.are_served()


@pytest.mark.parametrize("number", [1, 3])
def test_members_are_slow(cluster: LabCluster, members: EtcdMembers, number: int) -> None:
    """The leader, or all of them at once; listeners come and go meanwhile."""
    users = Users(cluster)
    before = state(cluster)
    leader = members.leader()
    others = [address for address in ADDRESSES if address != leader]
    left = []
    with members.slow(*[leader, *others][:number]):
        for port in range(90, 100):
            passing = cluster["host1"].listen(VIP, port)
            cluster["host2"].listen(VIP, port).close()
            left.append(cluster["host3"].listen(VIP, port))
            passing.close()
        assert_told(cluster, "host2", 81)
        users.are_served()
    for opened in left:
        cluster.await_targets(opened.port, {"host3"})
        opened.close()
    eventually(lambda: healthy(cluster), "all to be well")
    await_state(cluster, before)
    users.are_served()


@pytest.mark.parametrize("distributes", [True, False])
def test_one_host_reaches_one_member_less(
    cluster: LabCluster, members: EtcdMembers, distributes: bool
) -> None:
    """It asks another, and is not missed: the distributor, or a target, of which two reach all."""
    users = Users(cluster)
    before, distributor = state(cluster), cluster.distributor()
    host = next(h for h in HOSTS if (h == distributor) is distributes)
    for address in ADDRESSES:
        with unheard(cluster, host, address):
            assert_told(cluster, host, 81)
            users.are_served()
    eventually(lambda: healthy(cluster), "all to be well")
    await_state(cluster, before)
    assert cluster.distributor() == distributor


def test_one_host_reaches_none(cluster: LabCluster, members: EtcdMembers) -> None:
    """A target: it is gone to the others when its lease ends, its connections go on."""
    users = Users(cluster)
    before = state(cluster)
    host = next(h for h in HOSTS if h != cluster.distributor())
    [witness] = {*HOSTS} - {host, cluster.distributor()}
    with unheard(cluster, host, *ADDRESSES):
        eventually(lambda: is_out_of_date(cluster, host), f"{host} to notice")
        eventually(lambda: host not in state(cluster, witness)["hosts"], f"{host} to be gone")
        users.go_on()
    eventually(lambda: healthy(cluster), "all to be well")
    await_state(cluster, before)
    users.are_served()
