# SPDX-License-Identifier: Apache-2.0
"""What stays of a daemon that was killed, what `status` says of it, and what takes it away."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SYSCTLS = ["net.ipv4.ip_local_reserved_ports", "net.ipv4.conf.all.arp_ignore"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LabCluster]:
    with lab_cluster("p4", hosts=1) as cluster:
        yield cluster


def sysctls(cluster: LabCluster) -> list[str]:
    return [cluster.run("host1", "sysctl", "-n", name).strip() for name in SYSCTLS]


def problems(cluster: LabCluster) -> list[str]:
    return list(cluster.noun("status")["problems"])


def doctor(cluster: LabCluster) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = json.loads(cluster.anyport("host1", "doctor", "--json").stdout)
    return findings


def test_status_says_what_somebody_took_away(cluster: LabCluster) -> None:
    assert problems(cluster) == []
    cluster.run("host1", "ip", "address", "del", f"{VIP}/32", "dev", "lo")
    assert any(f"vip {VIP}: not on lo" in problem for problem in problems(cluster))
    [found] = [f for f in doctor(cluster) if f["check"] == "daemon healthy"]
    assert found["found"] is False
    assert f"vip {VIP}: not on lo" in found["detail"]
    cluster.run("host1", "ip", "address", "add", f"{VIP}/32", "dev", "lo", "label", "lo:anyport")
    assert problems(cluster) == []
    cluster.run("host1", "ip", "link", "set", "eth0", "down")
    assert "interface eth0: down, or without a carrier" in problems(cluster)
    cluster.run("host1", "ip", "link", "set", "eth0", "up")
    lost = cluster.lab.node("host1").address6  # the kernel drops IPv6 addresses with the link
    assert f"interface eth0: it has lost {lost}" in problems(cluster)
    cluster.run("host1", "ip", "address", "add", f"{lost}/64", "dev", "eth0", "nodad")
    eventually(lambda: not problems(cluster), "the link to be up again")


def test_detach_is_refused_while_a_daemon_runs(cluster: LabCluster) -> None:
    done = cluster.anyport("host1", "detach")
    assert done.returncode == 1
    assert f"pid {cluster.lab.daemon_pid('host1')}" in done.stderr
    assert cluster.has_on_lo("host1", VIP)


def test_detach_leaves_nothing_and_a_new_daemon_starts_afresh(cluster: LabCluster) -> None:
    cluster.lab.kill_daemon("host1")
    pins = cluster.lab.node("host1").pins
    assert (pins / "links").is_dir()
    assert all(sysctls(cluster)[:1])
    assert cluster.has_on_lo("host1", VIP)

    done = cluster.anyport("host1", "detach")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"detached; VIPs taken off lo: {VIP}\n"
    assert not pins.exists()
    assert not cluster.has_on_lo("host1", VIP)
    assert sysctls(cluster) == ["", "0"]
    assert cluster.anyport("host1", "detach").stdout == "detached; VIPs taken off lo: none\n"

    cluster.lab.start_daemon("host1")
    cluster.await_ready()
    cluster["host1"].listen(VIP, 80)
    cluster.await_targets(80, {"host1"})
    assert cluster.client.fetch(VIP, 80, 1) == ["host1"]
    assert problems(cluster) == []


def test_a_program_that_is_no_longer_attached(cluster: LabCluster) -> None:
    """Last: the interface is another one then."""
    pin = cluster.lab.node("host1").pins / "links" / "distribute"
    cluster.run("host1", "bpftool", "link", "detach", "pinned", str(pin))
    assert any("the packet program is not attached" in problem for problem in problems(cluster))
