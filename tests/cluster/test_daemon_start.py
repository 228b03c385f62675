# SPDX-License-Identifier: Apache-2.0
"""What `anyport run` refuses, in one line, before it touches anything; and how it ends while it
waits for etcd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from anyport.lab import Lab
from anyport.lab.lab import Settings
from tests.support.lab_cluster import eventually
from tests.support.lab_etcd import states

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NOWHERE = {"registry": {"endpoints": ["http://10.77.0.254:1"]}}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"p1{os.getpid()}") as lab:
        lab.build(hosts=1)
        yield lab


def run(lab: Lab, settings: Settings) -> subprocess.CompletedProcess[str]:
    lab.configure("host1", {**NOWHERE, **settings})
    return lab.run("host1", ["anyport", "run"], timeout=60)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"daemon": {"cgroup": "/nowhere"}}, "daemon.cgroup '/nowhere': no cgroup2 directory"),
        ({"daemon": {"cgroup": "/etc"}}, "daemon.cgroup '/etc': no cgroup2 directory"),
        ({"daemon": {"pins": "/proc"}}, "daemon.pins '/proc': a mount point"),
        ({"daemon": {"socket": "/run"}}, "daemon.socket '/run': a directory"),
        (
            {"host": {"interface": "eth9"}},
            "host.interface: interface 'eth9'; there are eth0, lo: No such device",
        ),
        (
            {"host": {"address": "10.77.0.9"}},
            "host.address 10.77.0.9: eth0 does not have it; it has 10.77.0.1",
        ),
    ],
)
def test_what_this_machine_lacks_is_named_by_file_and_key(
    lab: Lab, settings: Settings, complaint: str
) -> None:
    done = run(lab, settings)
    assert done.returncode == 2
    assert done.stderr.startswith(f"anyport: {lab.node('host1').config}: {complaint}")
    assert done.stderr.count("\n") == 1
    assert not (lab.node("host1").directory / "state").exists()


@contextmanager
def daemon(lab: Lab, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    lab.configure("host1", settings)
    with (
        lab.node("host1").log.open("wb") as log,
        lab.popen("host1", ["anyport", "run"], stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def assert_ends(lab: Lab, process: subprocess.Popen[bytes], number: int) -> None:
    process.send_signal(number)
    status = process.wait(timeout=60)
    said = lab.node("host1").log.read_text()
    assert status == 0, said
    assert said.endswith("told to stop before etcd had told what there is\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_waits_to_join_ends_when_told(lab: Lab, number: int) -> None:
    node = lab.node("host1")
    node.socket.unlink(missing_ok=True)
    with daemon(lab, NOWHERE) as process:
        eventually(node.socket.exists, "it to be about to join")
        assert_ends(lab, process, number)


@pytest.mark.skipif(shutil.which("etcd") is None, reason="needs etcd")
def test_a_daemon_that_waits_for_the_first_listing_ends_when_told(lab: Lab) -> None:
    """etcd stands still once it has joined, while it loads programs, and answers nothing more."""
    node, lan = lab.node("host1"), lab.node("lan")
    data = lan.directory / "etcd"
    started = lab.run("lan", [sys.executable, "-m", "anyport.lab.etcd", str(data), lan.address])
    pid = int(json.loads((data / "etcd.json").read_text())["pid"])
    with daemon(lab, {"registry": {"endpoints": json.loads(started.stdout)}}) as process:
        links = node.pins / "links"
        eventually(lambda: links.exists() and any(links.iterdir()), "it to have joined")
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: states(pid) == {"T"}, "etcd to stand still")
        eventually(lambda: "packets are met in" in node.log.read_text(), "it to be about to list")
        assert_ends(lab, process, signal.SIGTERM)
