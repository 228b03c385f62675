# SPDX-License-Identifier: Apache-2.0
"""A lab with a program on each host, and what is really open there; and its tables, read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from anyport.client import Client
from anyport.errors import DaemonUnavailable
from anyport.kernel import abi
from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.libbpf import Map
from anyport.lab import Lab
from anyport.model import Definition, Method, PortBlock, PortKey, Protocol
from anyport.model.definition import Address, parse_ports
from tests.support.data_plane import DataPlane

PATIENCE = 20.0
PAUSE = 0.005  # between two looks: daemons tell no events
CONNECTIONS = 1024  # the least that the configuration allows

_PROGRAM = Path(__file__).with_name("socket_program.py")

Routes = dict[PortKey, tuple[str, frozenset[str]]]
"""Port -> `unique` or `distributed`, and the hosts."""


@dataclass(frozen=True)
class OpenSocket:
    """A socket as its program knows it."""

    address: Address
    protocol: Protocol
    port: int
    v6only: bool = False


class Refused(Exception):
    """What the program's system call said, as `EADDRINUSE`."""


class NotHere(Refused):
    """EADDRNOTAVAIL: the VIP is not on this host."""


class Program:
    """tests/support/socket_program.py in a node; killed, not asked, at the end."""

    def __init__(self, lab: Lab, node: str) -> None:
        self._process = lab.popen(
            node,
            [sys.executable, "-S", "-E", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """Raises Refused."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            error = answer["error"]
            raise (NotHere if error == "EADDRNOTAVAIL" else Refused)(error)
        return answer["result"]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class Machine:
    """`open` is the truth about the host's sockets, by the number its program has for each."""

    program: Program
    open: dict[int, OpenSocket] = field(default_factory=dict)


class LiveCluster:
    """Hosts of a lab, their programs and sockets, and the definitions as last asked for."""

    def __init__(self, lab: Lab, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self._lab = lab
        self._settings = {**settings, "tables": {"connections": CONNECTIONS}}
        self._operators = ThreadPoolExecutor()
        self._asked: list[Future[Any]] = []
        self._frozen: dict[str, int] = {}
        self._number = 0
        self._kernels: dict[tuple[str, int], DistributorKernel] = {}
        self.sound = True
        """Whether nothing has failed in it."""
        self._others: list[Program] = []
        self.machines: dict[str, Machine] = {}
        self.definitions: dict[Address, Definition] = {}

    def up(self, hosts: int) -> None:
        self._lab.up(hosts, settings=self._settings)
        self.machines = {name: Machine(Program(self._lab, name)) for name in self._lab.hosts}

    def program(self, node: str) -> Program:
        """Another, which the caller keeps account of."""
        self._others.append(Program(self._lab, node))
        return self._others[-1]

    def down(self) -> None:
        for program in [*self._others, *(machine.program for machine in self.machines.values())]:
            program.kill()
        for kernel in self._kernels.values():
            kernel.close()
        self._lab.down()
        self._operators.shutdown()

    # ---- programs ----

    def open(
        self, name: str, address: Address, protocol: Protocol, port: int, v6only: bool = False
    ) -> int:
        """The port that it got. Raises Refused."""
        machine = self.machines[name]
        self._number += 1
        got: int = machine.program.ask(
            "open",
            number=self._number,
            address=str(address),
            protocol=protocol.word,
            port=port,
            v6only=v6only,
        )
        machine.open[self._number] = OpenSocket(address, protocol, got, v6only)
        return got

    def close(self, name: str, number: int) -> None:
        self.machines[name].program.ask("close", numbers=[number])
        del self.machines[name].open[number]

    def close_all(self) -> None:
        for machine in self.machines.values():
            machine.program.ask("close_all")
            machine.open.clear()

    def kill_program(self, name: str) -> None:
        self.machines[name].program.kill()
        self.machines[name] = Machine(Program(self._lab, name))

    def flood(self, name: str, address: Address, sockets: int) -> None:
        """Opens and closes them, one at a time. Raises Refused."""
        where = {"address": str(address), "protocol": Protocol.UDP.word, "port": 9}
        self.machines[name].program.ask("flood", times=sockets, **where)

    # ---- daemons ----

    def kill_daemon(self, name: str) -> None:
        self.thaw(name)
        if self._lab.daemon_pid(name) is not None:
            self._lab.kill_daemon(name)

    def start_daemon(self, name: str) -> None:
        if self._lab.daemon_pid(name) is None:
            self._lab.start_daemon(name)

    def freeze(self, name: str) -> None:
        """Its daemon reads nothing: records wait, and are lost when the ring buffer is full."""
        pid = self._lab.daemon_pid(name)
        if pid is not None and name not in self._frozen:
            os.kill(pid, signal.SIGSTOP)
            self._frozen[name] = pid

    def thaw(self, name: str) -> None:
        if name in self._frozen:
            os.kill(self._frozen.pop(name), signal.SIGCONT)

    def restore(self) -> None:
        """Every daemon runs."""
        for name in self.machines:
            self.thaw(name)
            self.start_daemon(name)

    def answering(self) -> list[str]:
        return [
            name
            for name in self.machines
            if name not in self._frozen and self._lab.daemon_pid(name) is not None
        ]

    # ---- definitions ----

    def define(self, definition: Definition) -> None:
        """Returns when a daemon knows the wish; that it holds may wait for a distributor."""
        before = self.definitions.get(definition.vip)
        if definition == before:
            return
        if not self.answering():
            self.restore()
        host = self.answering()[0]
        client = self._lab.client(host)
        if before is not None:  # else what is asked next could overtake what was asked before
            self.eventually(lambda: before in self._wishes(client), f"{host} to know {before}")
        self._asked.append(self._operators.submit(_ask_for, client, definition))
        self.eventually(lambda: definition in self._wishes(client), f"{host} to know {definition}")
        self.definitions[definition.vip] = definition

    def _wishes(self, client: Client) -> list[Definition]:
        self._raise_refusals()
        return [_definition(row) for row in client.get("vips")]

    def _raise_refusals(self) -> None:
        for done in [future for future in self._asked if future.done()]:
            self._asked.remove(done)
            done.result()

    # ---- what can be seen ----

    def distributor(self, vip: Address) -> tuple[str, int] | None:
        """Its name and term, as all daemons say; None: they differ, or there is none."""
        said = {self._said(name, vip) for name in self.machines}
        return said.pop() if len(said) == 1 else None

    def _said(self, name: str, vip: Address) -> tuple[str, int] | None:
        try:
            row = self._lab.client(name).vip(str(vip))
        except DaemonUnavailable:
            return None
        return (row["distributor"], row["term"]) if row["distributor"] else None

    def table(self, vip: Address, distributor: str) -> Routes:
        """`anyport ports --json` there."""
        return {
            (Protocol.parse(row["protocol"]), row["port"]): (
                row["route"],
                frozenset(target["host"] for target in row["targets"]),
            )
            for row in self._lab.client(distributor).get("ports", vip=str(vip))
        }

    def blocks(self, distributor: str) -> dict[PortBlock, str]:
        return {
            PortBlock(ip_address(row["vip"]), row["first"], row["last"]): row["host"]
            for row in self._lab.client(distributor).get("blocks")
        }

    def programmed(self, vip: Address, tenure: tuple[str, int]) -> Routes:
        """The routes in the maps of the distributor's packet program."""
        kernel = self._distributor_kernel(tenure)
        index, _ = kernel.vips()[vip]
        plane = DataPlane()
        plane.hosts, plane.selections = kernel.hosts(), kernel.selections()
        plane.routes[index] = kernel.routes(index)
        names = {
            ip_address(address): name
            for name in self.machines
            for node in [self._lab.node(name)]
            for address in (node.address, node.address6)
        }
        return {
            key: (
                "unique" if row.kind == 1 else "distributed",
                frozenset(names[address] for address in plane.reach(index, key)),
            )
            for key, row in plane.routes[index].items()
        }

    def records_lost(self, name: str) -> int:
        """By the host's kernel programs, since they were first loaded."""
        pin = self._lab.node(name).pins / "listen_counters"
        with contextlib.closing(Map.open_pinned(pin)) as counters:
            key = abi.ListenCounter.EVENTS_LOST.to_bytes(4, "little")
            return sum(int.from_bytes(value, "little") for value in counters.lookup_percpu(key))

    def status(self, name: str) -> Any:
        return self._lab.client(name).get("status")

    def is_ready(self, name: str) -> bool:
        """It serves its VIPs as they are defined now, and has ports to hand out."""
        known = self._wishes(self._lab.client(name))
        return set(known) == set(self.definitions.values()) and bool(self.status(name)["ready"])

    def hosts(self, name: str, vip: Address) -> bool:
        """Whether the VIP is an address of the host."""
        shown = self._lab.run(name, ["ip", "-brief", "address", "show", "dev", "lo"]).stdout
        return f" {vip}/" in shown

    def eventually(self, holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {what}")
            time.sleep(PAUSE)

    # ---- inside ----

    def _distributor_kernel(self, tenure: tuple[str, int]) -> DistributorKernel:
        """One a tenure: in it, the maps in the maps stay the same ones."""
        if tenure not in self._kernels:
            pins = self._lab.node(tenure[0]).pins
            self._kernels[tenure] = DistributorKernel.load(1, pins, CONNECTIONS, hash_key=0)
        return self._kernels[tenure]


def _ask_for(client: Client, definition: Definition) -> None:
    fields: dict[str, Any] = {
        "ports": str(definition.ports),
        "method": definition.method.value,
        "hosts": "all" if definition.hosts is None else sorted(definition.hosts),
    }
    vip = str(definition.vip)
    with contextlib.suppress(DaemonUnavailable):  # killed before it could answer
        if vip in [row["vip"] for row in client.get("vips")]:
            client.set_vip(vip, **fields)
        else:
            client.add_vip(vip, **fields)


def _definition(row: Mapping[str, Any]) -> Definition:
    hosts = None if row["hosts"] == "all" else frozenset(row["hosts"])
    method = Method(row["method"])
    return Definition(ip_address(row["vip"]), parse_ports(row["ports"]), method, hosts)
