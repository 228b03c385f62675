# SPDX-License-Identifier: Apache-2.0
"""What `anyport run` refuses, in one line, before it touches anything."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from anyport.lab import Lab
from anyport.lab.lab import Settings

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
