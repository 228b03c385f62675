# SPDX-License-Identifier: Apache-2.0
"""The lab itself: namespaces, cgroups, programs in nodes, daemons, and going down."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyport.errors import AnyportError, UsageError
from anyport.kernel.features import cgroup2_mount
from anyport.lab import Lab
from anyport.lab.processes import scripts

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VIPS = {"10.77.0.200", "fd77::200"}
ANYPORT = [sys.executable, "-m", "anyport.cli.main"]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(f"t{os.getpid()}") as lab:
        yield lab


def leftovers(lab: Lab) -> list[str]:
    """Whatever of the system has the lab's name in it."""
    cgroups = cgroup2_mount()
    assert cgroups is not None
    return [
        *map(str, Path("/run/netns").glob(f"anyport-{lab.name}-*")),
        *map(str, cgroups.glob(f"anyport-{lab.name}*")),
        *map(str, Path("/run/anyport-lab").glob(f"{lab.name}*")),
        *(line for line in Path("/proc/mounts").read_text().splitlines() if lab.name in line),
    ]


def sleeping(lab: Lab, name: str) -> subprocess.Popen[bytes]:
    """A program that runs in the node, and not merely soon."""
    program = lab.popen(name, ["sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"\n"
    return program


ACCEPT = """
import socket
socket.create_server(('::', 7), family=socket.AF_INET6, dualstack_ipv6=True).accept()
"""
HOPS = """
import socket, sys
for address in sys.argv[2:]:
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    level, option = (41, socket.IPV6_UNICAST_HOPS) if ':' in address else (0, socket.IP_TTL)
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.setsockopt(level, option, int(sys.argv[1]))
        print(made.connect_ex((address, 7)))
"""
CONNECT = """
import socket, sys, time
while True:
    try:
        socket.create_connection((sys.argv[1], 7), 5)
        break
    except ConnectionRefusedError:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("name", ["host2", "client", "lan"])
def test_every_node_reaches_every_other(lab: Lab, name: str) -> None:
    lab.build(hosts=2)
    assert lab.names == ["host1", "host2", "client", "lan"]
    for address in (lab.node(name).address, lab.node(name).address6):
        with lab.popen(name, [sys.executable, "-c", ACCEPT]) as server:
            connect = [sys.executable, "-c", CONNECT, address]
            assert lab.run("host1", connect, timeout=20).returncode == 0
            assert server.wait(10) == 0


def test_a_host_has_its_own_namespace_cgroup_and_configuration(lab: Lab) -> None:
    lab.build(hosts=1)
    lab.configure("host1")
    node = lab.node("host1")
    shown = lab.run(
        "host1", ["sh", "-c", "cat /proc/self/cgroup; echo $ANYPORT_CONFIG; echo $PATH"]
    )
    cgroup, config, path = shown.stdout.splitlines()[-3:]
    assert cgroup == f"0::/{node.cgroup.relative_to(cgroup2_mount() or '/')}"
    assert config == str(node.config)
    assert path.startswith(f"{scripts()}:")
    links = lab.run("host1", ["ip", "-brief", "link"]).stdout
    assert {line.split()[0].split("@")[0] for line in links.splitlines()} == {"lo", "eth0"}


def test_the_client_has_no_configuration(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPORT_CONFIG", "/elsewhere")
    lab.build(hosts=1)
    assert lab.run("client", ["sh", "-c", "echo [$ANYPORT_CONFIG]"]).stdout == "[]\n"


def test_a_configuration_is_one_that_loads(lab: Lab) -> None:
    from anyport import config

    lab.build(hosts=1)
    lab.configure("host1", {"host": {"weight": 7}, "registry": {"endpoints": ["10.77.0.254:1"]}})
    loaded = config.load(lab.node("host1").config)
    assert (loaded.host.name, loaded.host.weight) == ("host1", 7)
    assert loaded.registry.endpoints == ("10.77.0.254:1",)


def test_exec_passes_streams_and_exit_status(lab: Lab) -> None:
    lab.build(hosts=1)
    script = 'read line; echo "out $line"; echo err >&2; exit 7'
    done = subprocess.run(
        [*ANYPORT, "lab", "exec", "--name", lab.name, "host1", "--", "sh", "-c", script],
        input="hello\n",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "out hello\n", "err\n")


def test_exec_hands_on_default_signals(lab: Lab) -> None:
    """A program that writes to a closed pipe is killed by SIGPIPE, as anywhere else."""
    lab.build(hosts=1)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        command = [*ANYPORT, "lab", "exec", "--name", lab.name, "host1", "yes"]
        assert subprocess.run(command, stdout=closed).returncode == -signal.SIGPIPE


def test_exec_in_an_unknown_node_lists_the_nodes(lab: Lab) -> None:
    lab.build(hosts=1)
    done = subprocess.run(
        [*ANYPORT, "lab", "exec", "--name", lab.name, "host9", "true"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (f"anyport: no 'host9' in lab {lab.name}; there are host1, client, lan\n")


def test_a_second_lab_of_the_name_is_refused_and_harms_nothing(lab: Lab) -> None:
    lab.build(hosts=1)
    with pytest.raises(AnyportError, match=r"is there already: `anyport lab down"):
        Lab(lab.name).build()
    assert lab.run("host1", ["true"]).returncode == 0


def test_the_last_of_other_labs_goes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes the directory of all of them along, which this one has just made or seen."""
    labs, make, goes = tmp_path / "labs", Path.mkdir, iter([True])

    def mkdir(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        make(path, mode, parents, exist_ok)
        if path == labs and next(goes, False):
            labs.rmdir()

    monkeypatch.setattr("anyport.lab.node._RUN", labs)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with Lab(f"t{os.getpid()}") as lab:
        lab.build(hosts=1)
        assert lab.node("host1").directory.is_dir()


def test_down_ends_what_runs_and_leaves_nothing(lab: Lab) -> None:
    lab.build(hosts=2)
    with sleeping(lab, "host2") as sleeper:
        lab.down()
        assert sleeper.wait(10) == -signal.SIGKILL
    assert leftovers(lab) == []
    lab.down()


@pytest.mark.parametrize("survivor", ["netns", "cgroup", "directory", "bpffs"])
def test_down_after_a_crash_half_way(lab: Lab, survivor: str) -> None:
    """Whichever part of a lab is left, it is seen and goes."""
    node = lab._places.node("host1")
    match survivor:
        case "netns":
            subprocess.run(["ip", "netns", "add", node.namespace], check=True)
        case "cgroup":
            node.cgroup.mkdir(parents=True)
        case "directory":
            node.directory.mkdir(parents=True)
        case "bpffs":
            lab._places.bpffs.mkdir(parents=True)
            subprocess.run(["mount", "-t", "bpf", "bpf", lab._places.bpffs], check=True)
    assert lab.exists
    lab.down()
    assert leftovers(lab) == []
    assert not lab.exists


def test_up_is_ready_at_return_and_daemons_come_and_go(lab: Lab) -> None:
    lab.up(
        2, [{"vip": vip} for vip in sorted(VIPS)], {"host": {"weight": 7}, "registry": {"ttl": 3}}
    )
    for host in lab.hosts:
        status = lab.client(host).get("status")
        assert status["healthy"]
        assert {row["vip"] for row in status["vips"] if row["ready"]} == VIPS
        assert [row["weight"] for row in lab.client(host).get("hosts")] == [7, 7]
    pid = lab.daemon_pid("host2")
    lab.kill_daemon("host2")
    assert [row["healthy"] for row in lab.status()] == [True, False, None, None]
    lab.start_daemon("host2")
    assert lab.daemon_pid("host2") not in (None, pid)
    lab.down()
    assert leftovers(lab) == []


def test_up_that_fails_leaves_nothing(lab: Lab) -> None:
    with pytest.raises(AnyportError, match=r"(?s)daemon of host1 ended.*interface 'eth9'"):
        lab.up(1, settings={"host": {"interface": "eth9"}})
    assert leftovers(lab) == []


def test_a_daemon_that_ends_is_told_with_its_log(lab: Lab) -> None:
    """Its configuration is wrong, so it does not get far."""
    lab.build(hosts=1)
    lab.configure("host1", {"host": {"weight": "heavy"}})
    with pytest.raises(AnyportError, match=r"(?s)daemon of host1 ended with status 2.*host.weight"):
        lab.start_daemon("host1")


def test_a_killed_daemon_is_gone_at_return(lab: Lab) -> None:
    lab.build(hosts=1)
    node = lab.node("host1")
    with sleeping(lab, "host1") as stand_in:
        node.pid.write_text(f"{stand_in.pid}")
        assert lab.daemon_pid("host1") == stand_in.pid
        lab.kill_daemon("host1")
        assert stand_in.wait(0) == -signal.SIGKILL
    assert lab.daemon_pid("host1") is None


@pytest.mark.parametrize("name", ["", "a-b", "UP", "seventeenletters1", "../x"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError, match="allowed are 1-16 letters"):
        Lab(name)


@pytest.mark.parametrize("hosts", [0, 51])
def test_numbers_of_hosts_that_cannot_be(lab: Lab, hosts: int) -> None:
    with pytest.raises(UsageError, match="allowed are 1-50"):
        lab.build(hosts)
    assert leftovers(lab) == []


def test_a_vip_that_the_client_has_is_refused_and_nothing_is_left() -> None:
    lab = Lab(f"v{os.getpid()}")
    words = ["lab", "up", "--name", lab.name, "--hosts", "1", "--vip", "10.77.0.100"]
    done = subprocess.run([*ANYPORT, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "a machine on the LAN has it" in done.stderr
    assert leftovers(lab) == []


def test_a_routed_lab_has_a_router_between_its_hosts(lab: Lab) -> None:
    lab.build(hosts=3, routed=True)
    assert lab.names == ["host1", "host2", "host3", "client", "router", "lan"]
    near, far, client = (lab.node(name) for name in ("host1", "host3", "client"))
    assert (near.address, far.address, client.address) == ("10.77.0.1", "10.77.1.3", "10.77.2.100")
    addresses = [node.address for node in (far, client)] + [node.address6 for node in (far, client)]

    def reached(hops: str) -> set[str]:
        """What connect() says, where nobody listens."""
        return set(
            lab.run(
                "host1", [sys.executable, "-c", HOPS, hops, *addresses], timeout=60
            ).stdout.split()
        )

    assert reached("1") == {str(errno.EHOSTUNREACH)}
    assert reached("2") == {str(errno.ECONNREFUSED)}
    lab.down()
    assert leftovers(lab) == []
