# SPDX-License-Identifier: Apache-2.0
"""The lab's etcd, and what may happen to it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.lab_cluster import LabCluster, eventually


@contextmanager
def unheard(cluster: LabCluster, node: str, *addresses: str) -> Iterator[None]:
    """What the node sends to these goes to a MAC that nobody has; nobody says so."""
    device = ["dev", cluster.lab.node(node).interface]
    for address in addresses:
        nobody = ["lladdr", "02:00:00:00:00:99", "nud", "permanent"]
        cluster.run(node, "ip", "neighbour", "replace", address, *device, *nobody)
    try:
        yield
    finally:
        for address in addresses:
            cluster.run(node, "ip", "neighbour", "del", address, *device)


class LabEtcd:
    def __init__(self, cluster: LabCluster) -> None:
        self._cluster = cluster
        self._data = cluster.lab.node("lan").directory / "etcd"

    @property
    def pid(self) -> int:
        return int(json.loads((self._data / "etcd.json").read_text())["pid"])

    @contextmanager
    def frozen(self) -> Iterator[None]:
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            # Until then its threads may still answer.
            eventually(lambda: states(pid) == {"T"}, "etcd to stand still")
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def cut_off(self, host: str) -> Iterator[None]:
        """The host from etcd alone, both ways."""
        cluster = self._cluster
        there, here = cluster.address("lan"), cluster.address(host)
        with unheard(cluster, host, there), unheard(cluster, "lan", here):
            yield

    @contextmanager
    def without_space(self) -> Iterator[None]:
        """As when its quota, or its disk, is used up: it refuses whatever takes room."""
        self._alarm("ACTIVATE")
        try:
            yield
        finally:
            self._alarm("DEACTIVATE")

    def _alarm(self, action: str) -> None:
        member = self._ask("cluster/member/list", {})["members"][0]["ID"]
        alarm = {"action": action, "memberID": member, "alarm": "NOSPACE"}
        assert "alarms" in self._ask("maintenance/alarm", alarm)

    def restart_empty(self) -> None:
        """At the same place."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: states(pid) <= {"Z"}, "etcd to be gone")
        shutil.rmtree(self._data / "data")
        address = self._cluster.address("lan")
        self._cluster.run("lan", sys.executable, "-m", "anyport.lab.etcd", str(self._data), address)

    def compact(self, host: str) -> None:
        """Forgets all that led to what `host` has seen."""
        revision = self._cluster.noun("status", host)["registry"]["revision"]
        assert "header" in self._ask("kv/compaction", {"revision": revision, "physical": True})

    def stored(self) -> list[str]:
        """Keys."""
        every = base64.b64encode(b"\0").decode()
        found = self._ask("kv/range", {"key": every, "range_end": every, "keys_only": True})
        return [base64.b64decode(kv["key"]).decode() for kv in found.get("kvs", ())]

    def await_end(self, *hosts: str) -> None:
        """Of their leases."""
        gone = {f"/anyport/v1/hosts/{host}/self" for host in hosts}
        eventually(lambda: gone.isdisjoint(self.stored()), f"the leases of {hosts} to end")

    def _ask(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        """By its JSON gateway."""
        url = f"{self._cluster.endpoints[0]}/v3/{what}"
        answer = self._cluster.run("lan", "curl", "-sS", "-d", json.dumps(request), url)
        told: dict[str, Any] = json.loads(answer)
        return told


def states(pid: int) -> set[str]:
    """Of its threads (proc(5)); none: it is gone."""
    try:
        return {
            (thread / "stat").read_text().rpartition(")")[2].split()[0]
            for thread in Path(f"/proc/{pid}/task").iterdir()
        }
    except OSError:
        return set()
