# SPDX-License-Identifier: Apache-2.0
"""The real command line on a real cluster: what it refuses, with what words, and what it shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab_cluster import VIP, LabCluster, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LabCluster]:
    with lab_cluster("cli") as cluster:
        yield cluster


def refused(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line that was said."""
    assert done.stdout == ""
    assert done.returncode == status, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("anyport: ")
    return line


# ---- verbs that are refused ----

REFUSED = [
    (["add", VIP], "change it with `vip set`"),
    (["add", "10.77.0.2"], "the address of host host2"),
    (["add", "10.77.0.0"], "the network's own or broadcast address in 10.77.0.0/24"),
    (["add", "10.77.0.255"], "the network's own or broadcast address in 10.77.0.0/24"),
    (["add", "10.77.0.90", "--ports", "90-80"], "90-80"),
    (["add", "10.77.0.90", "--ports", "http"], "http"),
    (["add", "10.77.0.90", "--ports", "70000"], "70000"),
    (["add", "10.77.0.90", "--ports", "0"], "0"),
    (["add", "10.77.0.90", "--ports", "80/sctp"], "sctp"),
    (["add", "10.77.0.90", "--hosts", "host1,host9"], "known are: host1, host2, host3"),
    (["add", "10.77.0.90", "--method", "random"], "allowed are hash, round-robin"),
    (["add", "10.77.0"], "an IP address is wanted"),
    (["add", "127.0.0.9"], "loopback"),
    (["add", "224.0.0.9"], "multicast"),
    (["set", VIP], "nothing to change"),
    (["set", "10.77.0.90", "--ports", "80"], f"those that do: {VIP}"),
    (["delete", "10.77.0.90"], f"those that do: {VIP}"),
    (["show", "10.77.0.90"], f"those that do: {VIP}"),
]


@pytest.mark.parametrize(("words", "why"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_a_verb_that_cannot_be(cluster: LabCluster, words: list[str], why: str) -> None:
    assert why in refused(cluster.anyport("host1", "vip", *words), 2)
    assert [row["vip"] for row in cluster.noun("vips")] == [VIP]


def test_a_vip_that_another_interface_has(cluster: LabCluster) -> None:
    cluster.run("host1", "ip", "address", "add", "10.77.0.91/32", "dev", "eth0")
    line = refused(cluster.anyport("host1", "vip", "add", "10.77.0.91"), 2)
    assert "10.77.0.91" in line
    assert "eth0" in line


def test_a_vip_that_another_machine_has(cluster: LabCluster) -> None:
    line = refused(cluster.anyport("host1", "vip", "add", cluster.address("client")), 2)
    assert f"a machine on the LAN has it (MAC {cluster.mac('client').hex(':')})" in line


def test_a_vip_that_is_there_is_looked_for_on_no_lan(cluster: LabCluster) -> None:
    """Its distributor answers for it: that is no other machine."""
    for host in cluster.lab.hosts:
        assert "change it with `vip set`" in refused(cluster.anyport(host, "vip", "add", VIP), 2)


def test_an_unreadable_definition(cluster: LabCluster) -> None:
    unreadable = "10.77.0.92"
    cluster.write("put", f"/anyport/v1/vips/{unreadable}", "{}")
    line = refused(cluster.anyport("host1", "vip", "set", unreadable, "--ports", "80"), 1)
    assert f"/anyport/v1/vips/{unreadable} is unreadable" in line
    assert "`anyport vip delete` it" in line
    assert cluster.anyport("host1", "vip", "delete", unreadable).returncode == 0


def test_a_command_for_a_host_without_a_daemon(cluster: LabCluster, tmp_path: Path) -> None:
    config = tmp_path / "none.toml"
    config.write_text('[host]\naddress = "10.0.0.1"\ninterface = "eth0"\n')
    config.write_text(config.read_text() + f'[daemon]\nsocket = "{tmp_path}/none.sock"\n')
    line = refused(cluster.anyport("host1", "hosts", "--config", str(config)), 1)
    assert "start `anyport run`" in line


# ---- configurations that are refused ----

FAULTS: list[tuple[dict[str, dict[str, Any]], str]] = [
    ({"host": {"wieght": 5}}, "wieght"),
    ({"hots": {}}, "hots"),
    ({"host": {"weight": "heavy"}}, "host.weight"),
    ({"host": {"weight": -1}}, "host.weight -1: allowed are 0-10000"),
    ({"host": {"address": "10.77.0.55"}}, "it has 10.77.0.2"),
    ({"host": {"address": "nowhere"}}, "an address of this host is wanted"),
    ({"host": {"name": "no/name"}}, "host.name"),
    ({"distributor": {"rank": "first"}}, "distributor.rank"),
    ({"tables": {"connections": 7}}, "tables.connections 7"),
    ({"blocks": {"size": 64, "low_water": 65}}, "blocks.low_water 65"),
    ({"registry": {"ca": "/nowhere/ca.pem"}}, "no such file"),
    ({"registry": {"endpoints": "10.0.0.1"}}, "registry.endpoints"),
]


@pytest.fixture
def spare(cluster: LabCluster) -> Iterator[LabCluster]:
    """host2 has no daemon, and its configuration may be spoilt."""
    if cluster.lab.daemon_pid("host2") is not None:
        cluster.lab.kill_daemon("host2", 15)
    yield cluster
    cluster.settings("host2", {})


@pytest.mark.parametrize(("settings", "why"), FAULTS, ids=[why for _, why in FAULTS])
def test_a_configuration_that_cannot_be(
    spare: LabCluster, settings: dict[str, dict[str, Any]], why: str
) -> None:
    spare.settings("host2", settings)
    assert why in refused(spare.anyport("host2", "run"), 2)


def test_an_interface_that_does_not_exist(spare: LabCluster) -> None:
    spare.settings("host2", {"host": {"interface": "eth9"}})
    line = refused(spare.anyport("host2", "run"), 2)
    assert "eth9" in line
    assert "there are eth0, lo" in line


def test_a_configuration_that_is_not_there(spare: LabCluster) -> None:
    line = refused(spare.anyport("host2", "run", "--config", "/nowhere.toml"), 2)
    assert "/nowhere.toml: No such file or directory; name another with --config" in line


def test_the_second_daemon_of_a_name_names_the_first(spare: LabCluster) -> None:
    spare.settings("host2", {"host": {"name": "host1"}})
    line = refused(spare.anyport("host2", "run"), 1)
    assert "'host1' is taken by the daemon at 10.77.0.1" in line


def test_a_second_daemon_of_the_same_state(cluster: LabCluster) -> None:
    line = refused(cluster.anyport("host1", "run"), 1)
    assert f"pid {cluster.lab.daemon_pid('host1')}" in line


def test_a_registry_that_does_not_answer(spare: LabCluster) -> None:
    spare.lab.configure("host2", {"registry": {"endpoints": ["http://10.77.0.254:1"]}})
    line = refused(spare.anyport("host2", "run"), 1)
    assert "etcd at 10.77.0.254:1" in line


# Imports first: nobody need not be able to read where anyport is installed.
_AS_NOBODY = """
import os, sys
from anyport import daemon
from anyport.cli.main import main
os.seteuid(65534)
sys.exit(main(sys.argv[1:]))
"""


def test_not_root(spare: LabCluster) -> None:
    """It may read its configuration, here through an open file, and no more."""
    with spare.lab.node("host2").config.open() as config:
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, "run", "--config", "/dev/stdin"],
            stdin=config,
            capture_output=True,
            text=True,
        )
    assert "run it as root" in refused(done, 1)


# ---- nouns ----

KEYS = {
    "vip list": {"vip", "ports", "method", "hosts", "distributor", "term"},
    "hosts": {"host", "address", "weight", "state", "since"},
    "listeners": {"vip", "protocol", "port", "host", "specific", "user", "process"},
    "ports": {"vip", "protocol", "port", "route", "targets"},
    "connections": {"protocol", "client", "client_port", "vip", "port", "host"},
    "blocks": {"vip", "first", "last", "host", "used"},
}


@pytest.fixture(scope="module")
def busy(cluster: LabCluster) -> LabCluster:
    """All daemons run, and there is something of every noun."""
    if cluster.lab.daemon_pid("host2") is None:
        cluster.settings("host2", {})
        cluster.lab.start_daemon("host2")
    for host in HOSTS:
        cluster[host].listen(VIP, 80)
    unique = cluster["host3"].listen(VIP)
    cluster.await_targets(80, set(HOSTS))
    cluster.await_targets(unique.port, {"host3"})
    cluster.client.connect(VIP, 80)
    return cluster


def shown(cluster: LabCluster, *words: str) -> Any:
    done = cluster.anyport(cluster.distributor(), *words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("noun", KEYS)
def test_what_a_noun_shows(busy: LabCluster, noun: str) -> None:
    rows = shown(busy, *noun.split())
    assert rows
    assert all(set(row) >= KEYS[noun] for row in rows)


def test_a_noun_of_one_vip(busy: LabCluster) -> None:
    for noun in ("listeners", "ports", "connections"):
        assert shown(busy, noun, VIP) == shown(busy, noun)
        line = refused(busy.anyport("host1", noun, "10.77.0.99"), 2)
        assert f"10.77.0.99 does not exist; those that do: {VIP}" in line


def test_vip_show(busy: LabCluster) -> None:
    found = shown(busy, "vip", "show", VIP)
    assert set(found) >= KEYS["vip list"]
    assert (found["ports"], found["method"], found["hosts"]) == ("any", "hash", "all")
    assert found["distributor"] in HOSTS
    assert found["term"] > 0


def test_ports_of_a_table(busy: LabCluster) -> None:
    shared, unique = shown(busy, "ports", VIP)
    assert (shared["port"], shared["route"]) == (80, "distributed")
    assert [t["host"] for t in shared["targets"]] == list(HOSTS)
    assert all(set(t) == {"host", "weight", "connections"} for t in shared["targets"])
    assert sum(t["connections"] for t in shared["targets"]) == 1
    assert (unique["route"], [t["host"] for t in unique["targets"]]) == ("unique", ["host3"])


def test_blocks_say_how_much_is_used(busy: LabCluster) -> None:
    used = {row["host"]: row["used"] for row in shown(busy, "blocks")}
    assert used == {"host1": 0, "host2": 0, "host3": 1}


def test_status(busy: LabCluster) -> None:
    found = shown(busy, "status")
    assert found["healthy"] is True
    assert found["problems"] == []
    done = busy.anyport("host2", "status")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "healthy")


@pytest.mark.parametrize("noun", [*KEYS, f"vip show {VIP}", "status"])
def test_a_table_for_people(busy: LabCluster, noun: str) -> None:
    done = busy.anyport(busy.distributor(), *noun.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "10.77.0" in done.stdout
