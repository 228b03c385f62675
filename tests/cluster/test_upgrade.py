# SPDX-License-Identifier: Apache-2.0
"""Another version of anyport takes over from what a former one has pinned (docs/adr/0017)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyport.kernel import layouts
from tests.support.builds import OTHER_PROGRAMS, build, version
from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster
from tests.support.pinned import Pinned, pinned

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
REPLACED = {"distribute", "decapsulate", "announce", "listen_leaks", "listen_tcp_listeners"}
LAYOUTS = "src/anyport/kernel/layouts.py"


@pytest.fixture(scope="module")
def shared() -> Iterator[LabCluster]:
    """host3 is behind a router: packets for it go in outer ones. Leases outlast every restart."""
    with lab_cluster("upgrade", 3, settings={"registry": {"ttl": 120}}, routed=True) as cluster:
        cluster.await_ready()
        yield cluster


@pytest.fixture
def cluster(shared: LabCluster) -> Iterator[LabCluster]:
    yield shared
    for host in HOSTS:
        if shared.lab.daemon_pid(host) is None:
            shared.lab.start_daemon(host)
    shared.await_ready()
    shared.reset()


@pytest.fixture(scope="module")
def other_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("programs"), OTHER_PROGRAMS)


def numbered(place: Path, name: str, number: int = 2) -> Path:
    """A version whose map of that name has another layout."""
    return build(place, {LAYOUTS: (f'"{name}": {layouts.LAYOUTS[name]},', f'"{name}": {number},')})


def in_kernel(cluster: LabCluster, host: str) -> Pinned:
    return pinned(cluster.lab.node(host).pins)


def serve(cluster: LabCluster) -> None:
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
        cluster[host].bind_udp(VIP, 53)
    cluster.await_targets(80, set(HOSTS))
    cluster.await_targets(53, set(HOSTS), "udp")


def test_programs_are_replaced_without_a_lost_packet(
    cluster: LabCluster, other_programs: Path
) -> None:
    """On the distributor, a target by layer 2, and one by IPIP; and back."""
    serve(cluster)
    before = {host: in_kernel(cluster, host) for host in HOSTS}
    with (
        cluster.downloads(80, 50) as rounds,
        cluster.datagrams(53, 40) as datagrams,
        cluster.traffic(80) as greetings,
    ):
        with version(other_programs):
            for host in HOSTS:
                cluster.lab.kill_daemon(host)
                cluster.lab.start_daemon(host)
        other = {host: in_kernel(cluster, host) for host in HOSTS}
        for host in HOSTS:
            cluster.lab.kill_daemon(host)
            cluster.lab.start_daemon(host)
        cluster.await_ready()
        back = {host: in_kernel(cluster, host) for host in HOSTS}
    assert (len(rounds), min(rounds) > 0) == (50, True)
    assert datagrams["sent"] > 40 * 100
    assert datagrams["lost"] == 0
    assert set(greetings) == set(HOSTS)
    for host in HOSTS:
        had, has = before[host], other[host]
        assert {name for name in REPLACED if had.tags[name] != has.tags[name]} == REPLACED
        assert (had.maps, had.links) == (has.maps, has.links)
        assert (back[host].maps, back[host].links, back[host].tags) == (
            had.maps,
            had.links,
            had.tags,
        )


@pytest.mark.parametrize("name", ["sockets", "connections", "tunnel_addresses"])
def test_another_layout_is_refused_before_anything_is_touched(
    cluster: LabCluster, tmp_path: Path, name: str
) -> None:
    """One map of each object. The version that made it goes on as if nothing had been."""
    later = numbered(tmp_path, name)
    serve(cluster)
    here = cluster.distributor()
    cluster.lab.kill_daemon(here)
    before = in_kernel(cluster, here)
    with cluster.downloads(80, 20) as rounds, cluster.datagrams(53, 20) as datagrams:
        with cluster.watched(f"/anyport/v1/hosts/{here}/") as watch:
            with version(later):
                refused(cluster, here, rf"{name} \(1, not 2\)")
            assert in_kernel(cluster, here) == before
            opened = cluster[here].listen(VIP, 81)
            cluster.lab.start_daemon(here)
            cluster.await_targets(81, {here})
            first = watch.next()
        assert set(cluster.client.fetch(VIP, 80, 30)) == set(HOSTS)
        opened.close()
    assert first == f"put /anyport/v1/hosts/{here}/self", "the one that was refused said something"
    assert in_kernel(cluster, here).maps == before.maps
    assert min(rounds) > 0
    assert datagrams["lost"] == 0


def test_a_former_version_is_refused_by_what_a_later_one_made(
    cluster: LabCluster, tmp_path: Path
) -> None:
    """`anyport detach` is the way back, of either version."""
    later = numbered(tmp_path, "hosts")
    host = next(host for host in HOSTS if host != cluster.distributor())
    cluster.lab.kill_daemon(host)
    assert cluster.anyport(host, "detach").returncode == 0
    with version(later):
        cluster.lab.start_daemon(host)
        cluster.await_ready()
    serve(cluster)
    cluster.lab.kill_daemon(host)
    refused(cluster, host, r"hosts \(2, not 1\)")
    assert set(cluster.client.fetch(VIP, 80, 30)) == set(HOSTS)
    assert cluster.anyport(host, "detach").returncode == 0
    cluster.lab.start_daemon(host)
    cluster.await_ready()
    assert set(cluster.client.fetch(VIP, 80, 30)) == set(HOSTS)


def refused(cluster: LabCluster, host: str, named: str) -> None:
    done = cluster.anyport(host, "run")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    pins = re.escape(str(cluster.lab.node(host).pins))
    assert re.fullmatch(rf"anyport: pinned maps at {pins} .*: {named}; .*`anyport detach`", line)


def test_what_may_begin_anew_does(cluster: LabCluster, tmp_path: Path) -> None:
    """Figures, events, fragments: no connection ends, no listener goes unseen."""
    changed = "\n".join(f'    "{name}": {number + 1},' for name, number in layouts.ANEW.items())
    kept = "\n".join(f'    "{name}": {number},' for name, number in layouts.ANEW.items())
    later = build(tmp_path, {LAYOUTS: (kept, changed)})
    serve(cluster)
    here = cluster.distributor()
    closing = cluster[here].listen(VIP, 81)
    cluster.await_targets(81, {here})
    before = in_kernel(cluster, here)
    with cluster.downloads(80, 20) as rounds, cluster.datagrams(53, 20) as datagrams:
        cluster.lab.kill_daemon(here)
        closing.close()
        cluster[here].listen(VIP, 82)
        with version(later):
            cluster.lab.start_daemon(here)
            cluster.await_targets(81, set())
            cluster.await_targets(82, {here})
            cluster[here].listen(VIP, 83)  # told by the new ring
            cluster.await_targets(83, {here})
        after = in_kernel(cluster, here)
    assert {name for name in before.maps if before.maps[name] != after.maps[name]} == {
        *layouts.ANEW
    }
    assert min(rounds) > 0
    assert datagrams["lost"] == 0


def test_programs_that_only_another_version_has_are_taken_off(cluster: LabCluster) -> None:
    """As if one of an older daemon's had no place in this version."""
    pins = cluster.lab.node("host2").pins / "links"
    cluster.lab.kill_daemon("host2")
    (pins / "announce").rename(pins / "later")
    cluster.lab.start_daemon("host2")
    eventually(lambda: not (pins / "later").exists(), "it to be gone")
    assert "program later is another version's: it is taken off" in cluster.log("host2")
    assert cluster.noun("status", "host2")["healthy"]
