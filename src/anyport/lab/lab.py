# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anyport.client import Client
from anyport.errors import AnyportError, DaemonUnavailable, KernelError, UsageError
from anyport.lab import network, processes
from anyport.lab.node import LAN, MOST_HOSTS, Node, Places

Settings = Mapping[str, Mapping[str, Any]]

_UP_SECONDS = 60.0
_POLL_SECONDS = 0.05
_TAIL_LINES = 15


class Lab:
    """A cluster in a box, by its name; what it is made of is read off the system.

    As a context manager it goes down at the end. Errors are AnyportError.
    """

    def __init__(self, name: str = "lab") -> None:
        self._places = Places(name)
        self.name = name
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # ---- up and down ----

    def up(
        self,
        hosts: int = 3,
        definitions: Sequence[Mapping[str, Any]] = (),
        settings: Settings | None = None,
        routed: bool = False,
    ) -> None:
        """Returns when every daemon sees every host, and every VIP is served.

        `definitions` are what the daemon's POST /v1/vips takes; `settings` are
        sections of the hosts' configuration. `routed`: not all on one LAN (see
        anyport.lab.network). If a step fails nothing is left.
        """
        self.build(hosts, routed)
        with self._or_down():
            wanted = {"registry": {}, **(settings or {})}
            wanted["registry"] = {**wanted["registry"], "endpoints": self._start_etcd()}
            for name in self.hosts:
                self.configure(name, wanted)
                self.launch_daemon(name)
            self._await(self._all_joined, "every host to see every other")
            for definition in definitions:
                self.client("host1").add_vip(**definition)
            self._await(lambda: self._all_serve(len(definitions)), "the VIPs to be served")

    def build(self, hosts: int = 3, routed: bool = False) -> None:
        """Namespaces, cgroups, directories: all but the processes."""
        if not 1 <= hosts <= MOST_HOSTS:
            raise UsageError(f"{hosts} hosts: allowed are 1-{MOST_HOSTS}")
        self._claim()
        with self._or_down():
            nodes = self._places.planned(hosts, routed)
            network.build(nodes)
            for node in nodes:
                node.directory.mkdir()
                node.cgroup.mkdir(parents=True)
            _mount_bpffs(self._places.bpffs)

    def down(self) -> None:
        """Leaves nothing behind, whatever there was. None there: success."""
        processes.end_cgroup(self._places.cgroup)
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        network.remove(self._places.present())
        while self._places.bpffs.is_mount():
            _run(["umount", str(self._places.bpffs)])
        shutil.rmtree(self._places.directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # other labs are there
            self._places.directory.parent.rmdir()

    @property
    def exists(self) -> bool:
        places = self._places
        return places.directory.exists() or places.cgroup.exists() or bool(places.present())

    def _claim(self) -> None:
        """The directory is the lock: who makes it owns the name."""
        if os.geteuid() != 0:
            raise AnyportError("a lab makes network namespaces: run it as root")
        taken = AnyportError(f"lab {self.name} is there already: `anyport lab down` removes it")
        if self.exists:
            raise taken
        try:
            self._make_directory()
        except FileExistsError:
            raise taken from None

    def _make_directory(self) -> None:
        while True:
            self._places.directory.parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # the last of other labs went just now
                self._places.directory.mkdir(mode=0o700)
                return

    @contextlib.contextmanager
    def _or_down(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.down()
            raise

    # ---- nodes ----

    @property
    def names(self) -> list[str]:
        """Of the nodes that there are: hosts by number, `client`, `router`, `lan`."""
        return [node.name for node in self._places.present()]

    @property
    def hosts(self) -> list[str]:
        return [node.name for node in self._places.present() if node.is_host]

    def node(self, name: str) -> Node:
        """Raises UsageError that lists the names."""
        names = self.names
        if not names:
            raise AnyportError(f"no lab {self.name!r} is up: start one with `anyport lab up`")
        if name not in names:
            raise UsageError(f"no {name!r} in lab {self.name}; there are {', '.join(names)}")
        return self._places.node(name)

    def client(self, host: str) -> Client:
        """Speaks to the host's daemon: a unix socket is reached from any network namespace."""
        return Client(self.node(host).socket)

    def popen(self, name: str, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Runs `command` in the node; `options` are those of subprocess.Popen."""
        node = self.node(name)
        options.setdefault("env", processes.environment(node))
        return subprocess.Popen(processes.argv(node, command), **options)

    def run(
        self, name: str, command: Sequence[str], **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs `command` in the node to its end, its output captured as text."""
        node = self.node(name)
        options.setdefault("env", processes.environment(node))
        done: subprocess.CompletedProcess[str] = subprocess.run(
            processes.argv(node, command), capture_output=True, text=True, **options
        )
        return done

    def become(self, name: str, command: Sequence[str]) -> None:
        """Replaces this process by `command` in the node."""
        node = self.node(name)
        argv = processes.argv(node, command)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; heirs must not
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(argv[0], argv, processes.environment(node))

    # ---- daemons ----

    def configure(self, host: str, settings: Settings | None = None) -> None:
        """Writes the host's configuration; its daemon reads it at its next start."""
        node = self.node(host)
        sections: dict[str, dict[str, Any]] = {
            "host": {
                "name": host,
                "address": node.address,
                "address6": node.address6,
                "interface": node.interface,
            },
            # On one LAN the client asks for a VIP of any network.
            "distributor": {} if self._places.routed else {"candidate": True},
            "daemon": {
                "pins": str(node.pins),
                "state": str(node.directory / "state"),
                "socket": str(node.socket),
                "cgroup": str(node.cgroup),
            },
        }
        for section, values in (settings or {}).items():
            sections[section] = sections.get(section, {}) | dict(values)
        node.config.write_text(_toml(sections))

    def start_daemon(self, host: str) -> None:
        """Returns when it answers. Raises AnyportError with the end of its log if it ends first."""
        self.launch_daemon(host)
        self._await(lambda: _answers(self.node(host)), f"{host} to answer")

    def launch_daemon(self, host: str, packages: Path | None = None) -> None:
        """Without waiting for it. `packages`: the directory of another copy of this package."""
        node = self.node(host)
        environment = processes.environment(node)
        if packages is not None:
            environment["PYTHONPATH"] = str(packages)
        with open(node.log, "ab") as log:
            self._daemons[host] = self.popen(
                host,
                [str(processes.scripts() / "anyport"), "run"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        node.pid.write_text(f"{self._daemons[host].pid}\n")

    def kill_daemon(self, host: str, number: int = signal.SIGKILL) -> None:
        """Returns when the daemon is gone. Raises AnyportError if none runs."""
        pid = self.daemon_pid(host)
        if pid is None:
            raise AnyportError(f"no daemon runs on {host}")
        processes.end(pid, number)
        if host in self._daemons:
            self._daemons.pop(host).wait()

    def daemon_pid(self, host: str) -> int | None:
        """None: no daemon runs there."""
        node = self.node(host)
        try:
            pid = int(node.pid.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if pid in processes.members(node.cgroup) else None

    def status(self) -> list[dict[str, Any]]:
        """A row a node: name, address, address6, daemon (pid), healthy, problems.

        None: none is due there.
        """
        if not self.names:
            raise AnyportError(f"no lab {self.name!r} is up: start one with `anyport lab up`")
        return [self._row(node) for node in self._places.present()]

    def _row(self, node: Node) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": node.name,
            "address": node.address,
            "address6": node.address6,
        }
        if not node.is_host:
            return row | {"daemon": None, "healthy": None, "problems": []}
        try:
            found = Client(node.socket, wait_seconds=2).get("status")
            health = {"healthy": found["healthy"], "problems": found["problems"]}
        except AnyportError as error:
            health = {"healthy": False, "problems": [str(error)]}
        return row | {"daemon": self.daemon_pid(node.name)} | health

    def _start_etcd(self) -> list[str]:
        lan = self.node(LAN)
        data = str(lan.directory / "etcd")
        done = self.run(LAN, [sys.executable, "-m", "anyport.lab.etcd", data, lan.address])
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise AnyportError(f"lab {self.name}: etcd did not start: {lines[-1]}")
        endpoints: list[str] = json.loads(done.stdout)
        return endpoints

    # ---- waiting ----

    def _await(self, holds: Callable[[], bool], what: str) -> None:
        """Daemons tell no events, so ask often. A daemon that ends, ends the waiting."""
        deadline = time.monotonic() + _UP_SECONDS
        while not holds():
            self._refuse_dead()
            if time.monotonic() > deadline:
                raise AnyportError(f"lab {self.name}: waited {_UP_SECONDS:.0f} s for {what}")
            time.sleep(_POLL_SECONDS)

    def _refuse_dead(self) -> None:
        for host, daemon in self._daemons.items():
            if daemon.poll() is not None:
                status, log = daemon.returncode, self._places.node(host).log
                raise AnyportError(
                    f"lab {self.name}: the daemon of {host} ended with status {status}; "
                    f"the end of its log:\n{_tail(log)}"
                )

    def _all_joined(self) -> bool:
        nodes = [self.node(name) for name in self.hosts]
        return all(len(_ask(node, "hosts") or ()) == len(nodes) for node in nodes)

    def _all_serve(self, vips: int) -> bool:
        """A daemon is ready for the VIPs that it has heard of."""
        found = [_ask(self.node(name), "status") for name in self.hosts]
        return all(s is not None and s["ready"] and len(s["vips"]) == vips for s in found)


def _ask(node: Node, noun: str) -> Any:
    """None: its daemon does not answer yet."""
    try:
        return Client(node.socket, wait_seconds=2).get(noun)
    except DaemonUnavailable:
        return None


def _answers(node: Node) -> bool:
    return _ask(node, "status") is not None


def _mount_bpffs(path: Path) -> None:
    """One of the lab's own: all pins go with it."""
    path.mkdir()
    _run(["mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(path)])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise KernelError(f"{' '.join(command)}: {done.stderr.strip()}")


def _toml(sections: Settings) -> str:
    """Strings, numbers and lists of them look in TOML as in JSON."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-_TAIL_LINES:]) or "(empty)"
