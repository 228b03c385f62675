# SPDX-License-Identifier: Apache-2.0
"""A host without endpoints brings an etcd of its own, which outlives its daemon."""

from __future__ import annotations

import json
import os

import pytest

from anyport.lab import Lab
from tests.support.lab_cluster import VIP, LabCluster, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_one_host_alone() -> None:
    with Lab(f"alone{os.getpid()}") as lab:
        lab.build(hosts=1)
        data = lab.node("host1").directory / "etcd"
        lab.configure("host1", {"registry": {"data": str(data)}})
        lab.start_daemon("host1")
        cluster = LabCluster(lab)
        assert cluster.anyport("host1", "vip", "add", VIP).returncode == 0
        eventually(lambda: cluster.noun("status")["ready"], "the host to be ready")
        opened = cluster["host1"].listen(VIP)
        cluster.await_targets(opened.port, {"host1"})
        assert cluster.client.fetch(VIP, opened.port, 2) == ["host1"] * 2

        etcd = json.loads((data / "etcd.json").read_text())["pid"]
        assert data.stat().st_mode & 0o777 == 0o700
        lab.kill_daemon("host1")
        assert cluster.client.fetch(VIP, opened.port, 2) == ["host1"] * 2
        lab.start_daemon("host1")
        assert json.loads((data / "etcd.json").read_text())["pid"] == etcd
        cluster.await_targets(opened.port, {"host1"})
        cluster.close()
