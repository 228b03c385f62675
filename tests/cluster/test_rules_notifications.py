# SPDX-License-Identifier: Apache-2.0
"""R4 and R5, as the registry sees them: what is told, how often, and what comes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from anyport.agent.agent import AUDIT_SECONDS
from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

LISTENERS = f"/anyport/v1/hosts/host2/listeners/{VIP}/"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    with lab_cluster("told", hosts=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(lab: LabCluster) -> Iterator[LabCluster]:
    yield lab
    lab.reset()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_an_opening_and_a_closing_are_told_once_each(cluster: LabCluster, protocol: str) -> None:
    own = cluster["host2"]
    with cluster.watched(LISTENERS) as watch:
        opened = (own.listen if protocol == "tcp" else own.bind_udp)(VIP, 80)
        cluster.await_targets(80, {"host2"}, protocol)
        opened.close()
        cluster.await_targets(80, set(), protocol)
        own.listen(VIP, 9999)
        key = f"{LISTENERS}{protocol}/80"
        assert watch.until("/9999") == [f"put {key}", f"delete {key}"]


def test_a_group_of_sockets_is_one_listener_until_the_last_closes(cluster: LabCluster) -> None:
    own = cluster["host2"]
    with cluster.watched(LISTENERS) as watch:
        group = [own.listen(VIP, 80, reuse_port=True) for _ in range(4)]
        cluster.await_targets(80, {"host2"})
        for opened in group[:3]:
            opened.close()
        own.listen(VIP, 9999)
        assert watch.until("/9999") == [f"put {LISTENERS}tcp/80"]
        own.listen(VIP, 9997)
        assert watch.until("/9997") == []  # openings are told before closings of the same moment
        assert cluster.client.fetch(VIP, 80, 3) == ["host2"] * 3
        group[3].close()
        cluster.await_targets(80, set())
        own.listen(VIP, 9998)
        assert watch.until("/9998") == [f"delete {LISTENERS}tcp/80"]


def test_a_forked_server_is_one_listener_until_the_last_process_ends(cluster: LabCluster) -> None:
    own = cluster["host2"]
    with cluster.watched(LISTENERS) as watch:
        opened = own.listen(VIP, 81)
        cluster.await_targets(81, {"host2"})
        children = [own.do("fork") for _ in range(2)]
        opened.close()
        own.do("reap", child=children[0])
        own.listen(VIP, 9999)
        assert watch.until("/9999") == [f"put {LISTENERS}tcp/81"]
        own.do("reap", child=children[1])
        cluster.await_targets(81, set())


def test_what_no_program_saw_is_told_by_the_next_audit(cluster: LabCluster) -> None:
    """A socket of the host's network, by a process that was never in its cgroup."""
    enter = ["nsenter", f"--net=/run/netns/{cluster.lab.node('host2').namespace}"]
    script = (
        f"import socket; s = socket.create_server(('{VIP}', 81)); print(flush=True); open(0).read()"
    )
    words = [*enter, sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as stranger:  # type: ignore[call-overload]
        assert stranger.stdout.readline()
        eventually(lambda: cluster.targets(81) == {"host2"}, "an audit", AUDIT_SECONDS)
        stranger.stdin.close()
    eventually(lambda: not cluster.targets(81), "another audit", AUDIT_SECONDS)


def test_the_port_table_is_what_was_told(cluster: LabCluster) -> None:
    """A notification alone makes a target, without a socket anywhere; R5: "from them alone"."""
    key = "/anyport/v1/hosts/host2/listeners/" + f"{VIP}/tcp/4000"
    cluster.write("put", key, '{"v":1,"specific":true,"user":"root","process":"x"}')
    cluster.await_targets(4000, {"host2"})
    with pytest.raises(ConnectionRefusedError):  # by host2: nothing listens there
        cluster.client.connect(VIP, 4000)
    cluster.write("delete", key)
    cluster.await_targets(4000, set())


def test_a_value_that_does_not_parse_is_reported_by_its_key_and_skipped(
    cluster: LabCluster,
) -> None:
    key = f"{LISTENERS}tcp/4001"
    cluster.write("put", key, "rubbish")
    cluster["host2"].listen(VIP, 4002)
    cluster.await_targets(4002, {"host2"})
    assert cluster.targets(4001) == set()
    assert cluster.log("host1").count(key) == 1
    cluster.write("delete", key)
