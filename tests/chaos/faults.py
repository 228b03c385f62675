# SPDX-License-Identifier: Apache-2.0
"""Each fault of the scenario, done and undone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import anyport
from anyport.client import Client
from anyport.errors import AnyportError, UsageError
from tests.chaos.crew import Crew
from tests.chaos.daemons import Daemons
from tests.chaos.scenario import Step
from tests.support.lab_cluster import VIP, LabCluster
from tests.support.lab_etcd import LabEtcd

AGAIN_SECONDS = 0.5
PATIENCE_SECONDS = 30.0
LOST_DRAIN = re.compile(r"host (\S+): drained no more")

Undone = AbstractContextManager[None]


class Faults:
    """By the words of scenario.KINDS: what begins as a context manager is entered, and undone as
    it is left. `needs` says what no two faults may hold at a time."""

    def __init__(self, cluster: LabCluster, crew: Crew, daemons: Daemons, directory: Path) -> None:
        self._cluster = cluster
        self._lab = cluster.lab
        self._etcd = LabEtcd(cluster)
        self._crew = crew
        self._daemons = daemons
        self._present_method = "hash"
        source = Path(anyport.__file__).parent
        self._packages = directory / "copy"
        shutil.copytree(source, self._packages / source.name)

    def needs(self, step: Step, hosts: Sequence[str]) -> frozenset[str]:
        what = step.what
        if what in ("kill", "freeze", "stop", "upgrade", "away"):
            return frozenset(f"daemon {host}" for host in hosts)
        if what in ("etcd_kill", "etcd_freeze", "etcd_empty", "compact"):
            return frozenset({"etcd"})
        if what in ("etcd_cut", "etcd_gone"):
            return frozenset(f"path {host}" for host in hosts)
        return frozenset(f"{what} {host}" for host in hosts) or frozenset({what})

    def begin(self, step: Step, hosts: Sequence[str]) -> Undone:
        do: Callable[[Step, Sequence[str]], Undone] = getattr(self, f"_{step.what}")
        return do(step, hosts)

    # ---- daemons ----

    @contextmanager
    def _kill(self, _: Step, hosts: Sequence[str]) -> Iterator[None]:
        self._daemons.end(hosts, signal.SIGKILL)
        yield
        self._daemons.launch(hosts)

    _away = _kill

    @contextmanager
    def _stop(self, _: Step, hosts: Sequence[str]) -> Iterator[None]:
        self._daemons.end(hosts, signal.SIGTERM)
        yield
        self._daemons.launch(hosts)

    @contextmanager
    def _upgrade(self, _: Step, hosts: Sequence[str]) -> Iterator[None]:
        """The next daemon puts the programs of its own copy in place of the present ones."""
        self._daemons.end(hosts, signal.SIGKILL)
        self._daemons.launch(hosts, self._packages)
        yield

    @contextmanager
    def _freeze(self, _: Step, hosts: Sequence[str]) -> Iterator[None]:
        self._daemons.freeze(hosts)
        yield
        self._daemons.thaw(hosts)

    # ---- etcd ----

    @contextmanager
    def _etcd_kill(self, _: Step, __: Sequence[str]) -> Iterator[None]:
        os.kill(self._etcd.pid, signal.SIGKILL)
        yield
        data, address = str(self._lab.node("lan").directory / "etcd"), self._cluster.address("lan")
        self._cluster.run("lan", sys.executable, "-m", "anyport.lab.etcd", data, address)

    def _etcd_freeze(self, _: Step, __: Sequence[str]) -> Undone:
        return self._etcd.frozen()

    @contextmanager
    def _etcd_empty(self, _: Step, __: Sequence[str]) -> Iterator[None]:
        """The operator's definition is his to write again."""
        self._etcd.restart_empty()
        yield
        self._operate(self._define)

    def _define(self, client: Client) -> None:
        try:
            client.add_vip(VIP, method=self._present_method)
        except UsageError as error:
            if "exists" not in str(error):
                raise

    def _etcd_cut(self, _: Step, hosts: Sequence[str]) -> Undone:
        [host] = hosts
        return self._etcd.cut_off(host)

    _etcd_gone = _etcd_cut

    @contextmanager
    def _compact(self, _: Step, __: Sequence[str]) -> Iterator[None]:
        self._etcd.compact(self._answering())
        yield

    def _answering(self) -> str:
        for host in self._lab.hosts:
            try:
                self._client(host).get("status")
            except AnyportError:
                continue
            return host
        raise AnyportError("no daemon answers")

    # ---- hosts, servers, the operator ----

    @contextmanager
    def _lan_cut(self, _: Step, hosts: Sequence[str]) -> Iterator[None]:
        """At the switch: the host has no carrier."""
        [host] = hosts
        self._cluster.run("lan", "ip", "link", "set", host, "down")
        yield
        self._cluster.run("lan", "ip", "link", "set", host, "up")

    @contextmanager
    def _server_kill(self, _: Step, hosts: Sequence[str]) -> Iterator[None]:
        [host] = hosts
        self._crew.kill_servers(host)
        yield
        self._crew.start_servers(host)

    @contextmanager
    def _drain(self, _: Step, hosts: Sequence[str]) -> Iterator[None]:
        """The last candidate is not drained: then this does nothing. A daemon that ends before it
        has answered may have carried it out."""
        [host] = hosts
        try:
            self._client(self._answering()).drain(host)
            yield
        finally:
            self._operate(lambda client: client.resume(host))

    def heed(self) -> list[str]:
        """The operator does as `status` says where drains went with an emptied store, of these
        hosts; nobody is to be drained."""
        lost = sorted({host for asked in self._lab.hosts for host in self._lost_drains(asked)})
        for host in lost:
            self._drain_briefly(host)
        return lost

    def _drain_briefly(self, host: str) -> None:
        self._operate(lambda client: client.drain(host, anyway=True))
        self._operate(lambda client: client.resume(host))

    def _lost_drains(self, asked: str) -> list[str]:
        try:
            problems = self._client(asked).get("status")["problems"]
        except AnyportError:
            return []
        return [found[1] for line in problems if (found := LOST_DRAIN.match(line))]

    @contextmanager
    def _method(self, step: Step, _: Sequence[str]) -> Iterator[None]:
        self._operate(lambda client: client.set_vip(VIP, method=step.detail))
        self._present_method = step.detail
        yield

    def _operate(self, do: Callable[[Client], object]) -> None:
        """On any host, till one carries it out."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            for host in self._lab.hosts:
                try:
                    do(self._client(host))
                except AnyportError as error:
                    why = error
                else:
                    return
            if time.monotonic() > deadline:
                raise why
            time.sleep(AGAIN_SECONDS)

    def _client(self, host: str) -> Client:
        """As patient as a user's: what a daemon is asked it carries out, waited for or not."""
        return Client(self._lab.node(host).socket)
