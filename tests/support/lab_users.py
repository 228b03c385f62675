# SPDX-License-Identifier: Apache-2.0
"""What users of a lab's three hosts see, and all that its daemons say, to be compared."""

from __future__ import annotations

from typing import Any

from tests.support.lab_cluster import VIP, LabCluster, Opened, eventually

HOSTS = ("host1", "host2", "host3")


class Users:
    """Of a port that every host listens on, and of one that a single host was given."""

    def __init__(self, cluster: LabCluster) -> None:
        self._client = cluster.client
        for host in HOSTS:
            cluster[host].listen(VIP, 80)
        self._unique = cluster["host3"].listen(VIP)
        cluster.await_targets(80, set(HOSTS))
        cluster.await_targets(self._unique.port, {"host3"})
        self._connections = [self._client.connect(VIP, 80) for _ in range(20)]
        self._connections.append(self._client.connect(VIP, self._unique.port))

    def go_on(self) -> None:
        """Those that are there."""
        for connection in self._connections:
            _assert_live(connection)

    def are_served(self) -> None:
        """Those that are there, by who served them before; and new ones."""
        self.go_on()
        assert set(self._client.fetch(VIP, 80, 5)) <= set(HOSTS)
        assert self._client.fetch(VIP, self._unique.port, 1) == ["host3"]


def _assert_live(connection: Opened) -> None:
    """An RST would raise ConnectionResetError."""
    assert connection.say("on").endswith("on")


def state(cluster: LabCluster, host: str = "host1") -> dict[str, Any]:
    """What is to be as it was: nothing in it is a matter of time."""
    ports = cluster.noun("ports", host)
    return {
        "vips": [(row["vip"], row["ports"]) for row in cluster.noun("vips", host)],
        "hosts": [row["host"] for row in cluster.noun("hosts", host)],
        "listeners": cluster.listeners(host),
        "ports": [(r["port"], r["route"], [t["host"] for t in r["targets"]]) for r in ports],
        "blocks": {(r["first"], r["last"], r["host"]) for r in cluster.noun("blocks", host)},
    }


def await_state(cluster: LabCluster, wanted: dict[str, Any]) -> None:
    """On every host; fails with what differs."""
    for host in HOSTS:
        try:
            eventually(lambda host=host: state(cluster, host) == wanted, host)  # type: ignore[misc]
        except AssertionError:
            assert state(cluster, host) == wanted, host


def healthy(cluster: LabCluster) -> bool:
    return all(
        found["healthy"] and found["ready"]
        for found in (cluster.noun("status", host) for host in HOSTS)
    )
