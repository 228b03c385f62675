# SPDX-License-Identifier: Apache-2.0
"""What a daemon keeps of root's power suffices for all that it does (docs/security.md)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyport.daemon.power import KEPT
from anyport.kernel.capabilities import effective
from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VIP6 = "fd77::81"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LabCluster]:
    with lab_cluster("power") as cluster:
        cluster.await_ready()
        yield cluster


def threads(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def daemon(cluster: LabCluster, host: str) -> int:
    pid = cluster.lab.daemon_pid(host)
    assert pid is not None
    return pid


def test_no_thread_keeps_more(cluster: LabCluster) -> None:
    kept = sum(1 << capability for capability in KEPT)
    for host in cluster.lab.hosts:
        pid = daemon(cluster, host)
        assert {effective(thread) for thread in threads(pid)} == {kept}
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        assert f"CapBnd:\t{kept:016x}" in status
        assert "NoNewPrivs:\t1" in status


def test_its_files_are_root_s_alone(cluster: LabCluster) -> None:
    node = cluster.lab.node("host1")
    mine = [node.socket, *(node.directory / "state").rglob("*"), *node.pins.rglob("*")]
    open_ = [p for p in mine if not p.is_dir() and stat.S_IMODE(p.lstat().st_mode) & 0o177]
    assert (len(mine) > 20, open_) == (True, [])


def test_all_goes_on_after_a_restart_and_a_takeover(cluster: LabCluster) -> None:
    """Adopting a former daemon's maps takes more power than what is kept."""
    distributor = cluster.distributor()
    first, second = (host for host in cluster.lab.hosts if host != distributor)
    opened = cluster[first].listen(VIP)
    cluster.lab.kill_daemon(first)
    cluster.lab.start_daemon(first)
    again = cluster[first].listen(VIP)  # out of the adopted pool
    assert cluster.client.fetch(VIP, opened.port, 1) == [first]
    assert cluster.client.fetch(VIP, again.port, 1) == [first]

    added = cluster.anyport(first, "vip", "add", VIP6)
    assert (added.returncode, added.stderr) == (0, "")
    assert cluster.anyport(first, "doctor").returncode == 0

    cluster.lab.kill_daemon(distributor)
    eventually(
        lambda: cluster.lab.client(first).vip(VIP)["distributor"] in (first, second), "takeover"
    )
    assert cluster.client.fetch(VIP, cluster[second].listen(VIP).port, 1) == [second]
    cluster.lab.start_daemon(distributor)
    cluster.await_ready()
    cluster.lab.kill_daemon(first)
    cluster.lab.start_daemon(first)
    for vip in (VIP, VIP6):
        assert cluster.client.fetch(vip, cluster[first].listen(vip).port, 1) == [first]
    for host in cluster.lab.hosts:
        eventually(lambda host=host: not cluster.noun("status", host)["problems"], host)  # type: ignore[misc]
