# SPDX-License-Identifier: Apache-2.0
"""Daemons under the roles of `anyport registry init`: TLS, a certificate for each host."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyport.lab import Lab
from anyport.lab.lab import Settings
from tests.support.certificates import Certificates
from tests.support.lab_cluster import (
    LAB_REGISTRY,
    POLL_SECONDS,
    VIP,
    LabCluster,
    Opened,
    Program,
    eventually,
)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("etcd") is None, reason="needs root and etcd"
)

HOSTS = ("host1", "host2", "host3")
PORT = 23790
# The registry's least, so that a quarantine can be waited for.
SHORT = {"quarantine": 10.0}
FEW = {"size": 8, "largest": 8, "low_water": 2, "first": 40000, "last": 40031, "rest": 0}


def start_etcd(lab: Lab, certificates: Certificates) -> None:
    lan = lab.node("lan")
    ca = certificates.authority("ca")
    cert, key = certificates.issue("server", ca, lan.address)
    client, peer = f"https://{lan.address}:{PORT}", f"http://127.0.0.1:{PORT + 1}"
    with (certificates.directory / "etcd.log").open("wb") as log:
        lab.popen(
            "lan",
            [
                "etcd",
                f"--data-dir={certificates.directory}/data",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                f"--cert-file={cert}",
                f"--key-file={key}",
                f"--trusted-ca-file={ca}",
                "--client-cert-auth",
                "--heartbeat-interval=10",
                "--election-timeout=50",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def configure(lab: Lab, certificates: Certificates, host: str) -> Settings:
    cert, key = certificates.issue(host, certificates.directory / "ca.pem")
    registry = {
        "endpoints": [f"https://{lab.node('lan').address}:{PORT}"],
        "ca": str(certificates.directory / "ca.pem"),
        "cert": str(cert),
        "key": str(key),
        "ttl": 2,
    }
    settings: Settings = {"registry": registry, "blocks": {**FEW, **SHORT}}
    lab.configure(host, settings)
    return settings


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def settings(cluster: LabCluster, certificates: Certificates) -> Settings:
    """Of host3."""
    return configure(cluster.lab, certificates, "host3")


@pytest.fixture(scope="module")
def cluster(certificates: Certificates) -> Iterator[LabCluster]:
    """host1's certificate has the operator's role too."""
    with Lab(f"roles{os.getpid()}") as lab:
        lab.build(hosts=3)
        start_etcd(lab, certificates)
        for host in HOSTS:
            configure(lab, certificates, host)
        cluster = LabCluster(lab)
        root = certificates.issue("root", certificates.directory / "ca.pem")
        init(cluster, *root)
        for host in HOSTS:
            lab.start_daemon(host)
        assert cluster.anyport("host1", "vip", "add", VIP).returncode == 0
        cluster.await_ready()
        yield cluster
        cluster.close()


def init(cluster: LabCluster, cert: Path, key: Path) -> None:
    done = cluster.anyport(
        "host1",
        *("registry", "init", *HOSTS, "--operator", "host1", "--apply", "--enable"),
        *("--cert", str(cert), "--key", str(key)),
    )
    assert done.returncode == 0, done.stderr


def firsts(cluster: LabCluster, host: str, owner: str) -> set[int]:
    """First ports of the blocks that `host` sees as the owner's."""
    return {row["first"] for row in cluster.noun("blocks", host) if row["host"] == owner}


def listen(program: Program) -> Opened:
    """bind(VIP, 0), as soon as there is a port."""
    while True:
        with contextlib.suppress(OSError):
            return program.listen(VIP)
        time.sleep(POLL_SECONDS)


def test_a_host_without_the_role_says_so_in_one_line(cluster: LabCluster) -> None:
    for words, what in (
        (["vip", "add", "10.77.0.81"], "write definitions"),
        (["vip", "set", VIP, "--ports", "80"], "write definitions"),
        (["vip", "delete", VIP, "--yes"], "write definitions"),
        (["drain", "host3"], "drain hosts"),
        (["resume", "host3"], "resume hosts"),
    ):
        done = cluster.anyport("host2", *words)
        assert done.returncode == 1
        assert f"does not let this host {what}: its certificate has no operator role" in done.stderr
        assert done.stderr.count("\n") == 1
    assert [row["vip"] for row in cluster.noun("vips", "host2")] == [VIP]
    assert cluster.noun("drains", "host2") == []


def test_a_daemon_speaks_for_no_other_host(cluster: LabCluster, settings: Settings) -> None:
    cluster.lab.kill_daemon("host3")
    state = str(cluster.lab.node("host3").directory / "other")
    other: Settings = {"host": {"name": "host4"}, "daemon": {"state": state}}
    cluster.lab.configure("host3", {**settings, **other})
    done = cluster.anyport("host3", "run")
    cluster.lab.configure("host3", settings)
    assert (done.returncode, done.stderr.count("anyport:")) == (1, 1)
    assert "no role lets this certificate speak for host 'host4'" in done.stderr
    cluster.lab.start_daemon("host3")
    cluster.await_ready()


def test_listeners_blocks_and_a_takeover(cluster: LabCluster) -> None:
    """And of the blocks of the host that died: void after the quarantine, another's, given up by
    the one that returns."""
    distributor = cluster.distributor()
    first, second = (host for host in HOSTS if host != distributor)
    cluster[second].listen(VIP, 80)
    eventually(lambda: cluster.targets(80) == {second}, "a listener to be told")
    lost = firsts(cluster, first, distributor)
    assert lost
    cluster.lab.kill_daemon(distributor)
    eventually(lambda: cluster.lab.client(first).vip(VIP)["distributor"] in (first, second), "next")
    assert cluster.client.fetch(VIP, 80, 2) == [second] * 2
    eventually(lambda: not firsts(cluster, first, distributor), "its blocks to be void")
    opened = [listen(cluster[first])]
    while not lost & (firsts(cluster, first, first) | firsts(cluster, first, second)):
        opened.append(listen(cluster[first]))  # few ports in all: its next block is there soon

    cluster.lab.start_daemon(distributor)
    for port in lost:
        line = f"vip {VIP}: gave ports {port}-{port + 7} back"
        eventually(lambda line=line: line in cluster.log(distributor), line)  # type: ignore[misc]
    assert all(cluster.client.fetch(VIP, made.port, 1) == [first] for made in opened)
    for host in HOSTS:
        assert "permission denied" not in cluster.log(host)


@contextlib.contextmanager
def kept_alive(
    cluster: LabCluster, certificates: Certificates, host: str, owner: str
) -> Iterator[None]:
    """The owner's lease, by `host`: etcd lets every user do that."""
    files = (certificates.directory / n for n in ("ca.pem", f"{host}.pem", f"{host}.key"))
    where = ",".join([f"https://{cluster.address('lan')}:{PORT}", *map(str, files)])
    words = [sys.executable, LAB_REGISTRY, where, "keep", str(cluster.lease(owner))]
    with cluster.lab.popen(host, words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "kept\n"
            yield
            assert process.poll() is None
        finally:
            process.kill()


def test_a_dead_host_is_gone_whoever_keeps_its_lease_alive(
    cluster: LabCluster, certificates: Certificates
) -> None:
    """And back once its daemon is."""
    old = cluster.distributor()
    hostile, witness = (host for host in HOSTS if host != old)

    def told() -> set[str]:
        rows = cluster.noun("ports", witness)
        return {t["host"] for row in rows if row["port"] == 81 for t in row["targets"]}

    for host in (old, witness):
        cluster[host].listen(VIP, 81)
    eventually(lambda: told() == {old, witness}, "both listeners to be told")
    with kept_alive(cluster, certificates, hostile, old):
        cluster.lab.kill_daemon(old)
        eventually(lambda: told() == {witness}, "its listener to be gone")
        eventually(
            lambda: cluster.lab.client(witness).vip(VIP)["distributor"] in (hostile, witness),
            "another distributor",
        )
        assert set(cluster.client.fetch(VIP, 81, 20)) == {witness}
        problems = cluster.noun("status", witness)["problems"]
        assert any(old in p and "heartbeat stands still" in p for p in problems)
        eventually(lambda: not firsts(cluster, witness, old), "its blocks to be void")
        cluster.lab.start_daemon(old)
        eventually(lambda: told() == {old, witness}, "it to be back")
    assert set(cluster.client.fetch(VIP, 81, 40)) == {old, witness}
    eventually(lambda: not cluster.noun("status", witness)["problems"], "all to be well")
