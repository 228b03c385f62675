# SPDX-License-Identifier: Apache-2.0
"""A lab with a program in each node at hand: what cluster tests play with."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anyport.lab import Lab
from anyport.lab.lab import Settings

PATIENCE_SECONDS = 20.0
POLL_SECONDS = 0.02

_PROGRAM = str(Path(__file__).with_name("lab_program.py"))
LAB_REGISTRY = str(Path(__file__).with_name("lab_registry.py"))

VIP = "10.77.0.80"


class Unanswered(Exception):
    """A program waited in vain for the network."""


def eventually(holds: Callable[[], object], what: str, due: float = 0) -> None:
    """Daemons tell no events: asks often, and fails with `what` long after it was `due` (s)."""
    deadline = time.monotonic() + due + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {due + PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(POLL_SECONDS)


class Lines:
    """What a process says, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._descriptor = process.stdout.fileno()
        self._read = b""

    def next(self) -> str:
        """With its end; without one, or empty, where the process ended."""
        while b"\n" not in self._read:
            if not select.select([self._descriptor], [], [], PATIENCE_SECONDS)[0]:
                raise Unanswered("a program said nothing")
            more = os.read(self._descriptor, 1 << 16)
            if not more:
                break
            self._read += more
        line, end, self._read = self._read.partition(b"\n")
        return (line + end).decode()


@dataclass(frozen=True)
class Opened:
    """A socket of a Program."""

    program: Program
    number: int
    port: int
    greeting: str = ""

    def close(self) -> None:
        self.program.do("close", number=self.number)

    def accept(self) -> Opened:
        """Of a quiet listener; its port is the client's."""
        return Opened(self.program, *self.program.do("accept", number=self.number))

    def write(self, words: str) -> None:
        self.program.do("write", number=self.number, words=words)

    def read(self, count: int) -> str:
        """So many bytes, fewer only at the end. Raises ConnectionResetError at an RST."""
        return str(self.program.do("read", number=self.number, count=count))

    def finish(self) -> None:
        """Sends FIN, and may still read."""
        self.program.do("finish", number=self.number)

    def abort(self) -> None:
        """Sends RST."""
        self.program.do("abort", number=self.number)

    def say(self, words: str) -> str:
        """What comes back for `words` on a connection."""
        return str(self.program.do("say", number=self.number, words=words))

    def echo(self, length: int) -> bool:
        """Whether so many random bytes come back as they were sent."""
        return bool(self.program.do("echo", number=self.number, length=length))


class Program:
    """A process in a node; what fails there raises OSError with its errno here."""

    def __init__(self, lab: Lab, node: str, *before: str) -> None:
        """`before`: a command that executes the program, such as `unshare`."""
        self.node = node
        self._process = lab.popen(
            node,
            [*before, sys.executable, _PROGRAM, node],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers = Lines(self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, what: str, **arguments: Any) -> Any:
        self.begin(what, **arguments)
        return self.end(what)

    def begin(self, what: str, **arguments: Any) -> None:
        """Lets it go on by itself till `end`."""
        assert self._process.stdin is not None
        print(json.dumps({"do": what, **arguments}), file=self._process.stdin, flush=True)

    def end(self, what: str) -> Any:
        answer = json.loads(self._answers.next())
        if answer.get("errno") == 0:
            raise Unanswered(f"{self.node}: {what}: {answer['error']}")
        if "errno" in answer:
            raise OSError(answer["errno"], answer["error"])
        return answer["is"]

    def listen(self, address: str, port: int = 0, **options: bool) -> Opened:
        """Options: listen, mptcp, quiet, defer, reuse_port, reuse_address, v6only."""
        return Opened(self, *self.do("listen", address=address, port=port, **options))

    def bind_udp(self, address: str, port: int = 0, **options: bool) -> Opened:
        """Options: quiet, reuse_port, reuse_address, v6only."""
        return Opened(self, *self.do("bind_udp", address=address, port=port, **options))

    def connect(self, address: str, port: int, **options: Any) -> Opened:
        """Options: source (port), mptcp, ip_options. Raises ConnectionRefusedError at an RST."""
        return Opened(self, *self.do("connect", address=address, port=port, **options))

    def connect_quietly(self, address: str, port: int, source: int = 0) -> Opened:
        """To a quiet listener."""
        arguments = {"address": address, "port": port, "source": source}
        return Opened(self, *self.do("connect_quietly", **arguments))

    def connect_fast(self, address: str, port: int, words: str) -> Opened:
        """With `words` in the SYN, once there is a cookie (RFC 7413)."""
        arguments = {"address": address, "port": port, "words": words}
        return Opened(self, *self.do("connect_fast", **arguments))

    def fetch(self, address: str, port: int, count: int) -> list[str]:
        """Who served each of `count` connections."""
        found: list[str] = self.do("fetch", address=address, port=port, count=count)
        return found

    def ask_udp(
        self, address: str, port: int, count: int = 1, source: int = 0, length: int = 1
    ) -> list[str]:
        """Who answered; raises ConnectionRefusedError at ICMP port unreachable."""
        found: list[str] = self.do(
            "ask_udp", address=address, port=port, count=count, source=source, length=length
        )
        return found

    def reset(self) -> None:
        self.do("reset")

    def kill(self) -> None:
        """As kill -9 does; returns when it is gone."""
        self._process.kill()
        self._process.communicate()


class Watch:
    """Changes of the registry, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._changes = Lines(process)

    def next(self) -> str:
        return self._changes.next().strip()

    def until(self, last: str) -> list[str]:
        """Those before the first that ends with `last`."""
        seen = []
        while not (change := self.next()).endswith(last):
            assert change, "the watch ended"
            seen.append(change)
        return seen


class LabCluster:
    """`host1`..., `client`: one Program each, started when first used."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._programs: dict[str, Program] = {}
        self._extra: list[Program] = []
        self._configured: Settings = {}

    def __getitem__(self, node: str) -> Program:
        if node not in self._programs:
            self._programs[node] = Program(self.lab, node)
        return self._programs[node]

    def extra(self, node: str) -> Program:
        """One more program, gone after the test."""
        self._extra.append(Program(self.lab, node))
        return self._extra[-1]

    @property
    def client(self) -> Program:
        return self["client"]

    def reset(self) -> None:
        """What the programs opened is closed, and the cluster has noticed."""
        for program in self._extra:
            program.kill()
        self._extra.clear()
        # The client first: its RSTs pass the distributor, the hosts' do not, and for a minute a SYN
        # from the same port would follow the old connection, to where nobody may listen any more.
        for node in sorted(self._programs, key=lambda node: node != "client"):
            self._programs[node].reset()
        eventually(lambda: not self.noun("listeners"), "all listeners gone")

    def close(self) -> None:
        for program in (*self._extra, *self._programs.values()):
            program.kill()

    def forget(self, node: str) -> None:
        """Kills the node's program; the next use starts another."""
        self._programs.pop(node).kill()

    # ---- what the daemons say ----

    def noun(self, what: str, host: str = "host1", **only: str) -> Any:
        return self.lab.client(host).get(what, **only)

    def targets(self, port: int, protocol: str = "tcp", vip: str = VIP) -> set[str]:
        """The hosts that the port table has for a port."""
        return {
            target["host"]
            for row in self.noun("ports")
            if (row["vip"], row["protocol"], row["port"]) == (vip, protocol, port)
            for target in row["targets"]
        }

    def await_targets(
        self, port: int, wanted: set[str], protocol: str = "tcp", vip: str = VIP
    ) -> None:
        """Till the port table has these, and the distributor's maps."""
        eventually(
            lambda: self.targets(port, protocol, vip) == wanted,
            f"{vip}:{port}/{protocol} to have the targets {sorted(wanted)}",
        )
        self.settle()

    def await_ready(self) -> None:
        """Till every VIP is served and every host concerned can hand ports of it out."""
        for host in self.lab.hosts:
            eventually(
                lambda host=host: self.noun("status", host)["ready"],  # type: ignore[misc]
                f"{host} to be ready",
            )

    def settle(self) -> None:
        """Till the distributors have programmed all that host1 knows."""
        revision = self.noun("status")["registry"]["revision"]

        def is_programmed(host: str) -> bool:
            status = self.noun("status", host)
            return bool(status["programmed"] and status["registry"]["revision"] >= revision)

        for host in self.distributors():
            eventually(partial(is_programmed, host), f"{host} to have programmed {revision}")

    def distributors(self) -> set[str]:
        return {row["distributor"] for row in self.noun("vips") if row["distributor"]}

    def distributor(self, vip: str = VIP) -> str:
        return str(self.lab.client("host1").vip(vip)["distributor"])

    def listeners(self, host: str = "host1", vip: str = VIP) -> set[tuple[str, str, int]]:
        """(host, protocol, port) as `host` knows them."""
        return {
            (row["host"], row["protocol"], row["port"])
            for row in self.noun("listeners", host)
            if row["vip"] == vip
        }

    def figures(self, host: str) -> dict[str, float]:
        """The daemon's metrics, by name with labels."""
        socket = str(self.lab.node(host).socket)
        shown = self.lab.run(host, ["curl", "-sS", "--unix-socket", socket, "http://a/metrics"])
        lines = [line for line in shown.stdout.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def packets(self, host: str, reason: str) -> float:
        """Those that `host`, as a distributor, had a verdict on."""
        return sum(
            count
            for name, count in self.figures(host).items()
            if name.startswith("anyport_packets_total") and f'reason="{reason}"' in name
        )

    def log(self, host: str) -> str:
        return self.lab.node(host).log.read_text()

    # ---- doing ----

    def anyport(self, host: str, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line, as the operator has it on `host`."""
        return self.lab.run(host, ["anyport", *words], timeout=60)

    def run(self, node: str, *words: str) -> str:
        done = self.lab.run(node, words, timeout=60)
        assert done.returncode == 0, f"{node}: {' '.join(words)}: {done.stderr}"
        return done.stdout

    def mac(self, node: str) -> bytes:
        [shown] = json.loads(self.run(node, "ip", "-json", "link", "show", "eth0"))
        return bytes.fromhex(shown["address"].replace(":", ""))

    def address(self, node: str) -> str:
        return self.lab.node(node).address

    def client_address(self, vip: str) -> str:
        """Of the VIP's family."""
        node = self.lab.node("client")
        return node.address6 if ":" in vip else node.address

    def has_on_lo(self, host: str, vip: str) -> bool:
        [shown] = json.loads(self.run(host, "ip", "-json", "address", "show", "lo"))
        return any(a["local"] == vip for a in shown["addr_info"])

    def settings(self, host: str, settings: Settings) -> None:
        """Configures the host anew, with the lab's etcd."""
        registry = {"endpoints": self.endpoints, **settings.get("registry", {})}
        self.lab.configure(host, {**settings, "registry": registry})

    @contextmanager
    def stopped(self, *hosts: str) -> Iterator[None]:
        """Their daemons do nothing meanwhile; the kernel goes on alone. Shorter than the lease!"""
        pids = [self.lab.daemon_pid(host) for host in hosts]
        assert None not in pids
        for pid in filter(None, pids):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in filter(None, pids):
                os.kill(pid, signal.SIGCONT)

    def write(self, verb: str, key: str, value: str = "") -> None:
        """`put` or `delete`, straight in the registry."""
        self.run("lan", sys.executable, LAB_REGISTRY, *self.endpoints, verb, key, value)

    def leave(self, host: str) -> None:
        """Its daemon stops, and its lease ends."""
        self.lab.kill_daemon(host, signal.SIGTERM)
        self.revoke(self.lease(host))

    def lease(self, host: str) -> int:
        """As its daemon has saved it."""
        saved = self.lab.node(host).directory / "state" / "membership.json"
        return int(json.loads(saved.read_text())["lease"])

    def revoke(self, lease: int) -> None:
        self.run("lan", sys.executable, LAB_REGISTRY, *self.endpoints, "revoke", str(lease))

    def traffic(self, port: int, vip: str = VIP) -> AbstractContextManager[list[str]]:
        """A client that connects again and again; who greeted it, all of them at the end.

        Raises at the end what a refused or reset connection raised.
        """
        return self._until_told("fetch_on", port, vip)

    def connections_begun(self, port: int, vip: str = VIP) -> AbstractContextManager[list[str]]:
        """The same, but all stay open, and are used at the end."""
        return self._until_told("connect_on", port, vip)

    @contextmanager
    def _until_told(self, what: str, port: int, vip: str) -> Iterator[list[str]]:
        program = self.extra("client")
        program.begin(what, address=vip, port=port)
        greetings: list[str] = []
        yield greetings
        program.begin("reset")  # any request ends it
        greetings += program.end(what)
        program.end("reset")

    @contextmanager
    def downloads(self, port: int, count: int, vip: str = VIP) -> Iterator[list[int]]:
        """`count` connections on which bytes flow all the time; how often 16 KiB came, on each, at
        the end, which waits for what is on its way.

        Raises at the end what a broken connection, or a wrong byte, raised.
        """
        program = self.extra("client")
        numbers = [program.connect(vip, port).number for _ in range(count)]
        program.begin("echo_on", numbers=numbers, length=16384)
        rounds: list[int] = []
        yield rounds
        program.begin("reset")
        rounds += program.end("echo_on")
        program.end("reset")

    @contextmanager
    def datagrams(self, port: int, flows: int, vip: str = VIP) -> Iterator[dict[str, int]]:
        """So many flows of numbered datagrams, each of which waits for the answer to the last;
        how many were `sent`, and `lost`, at the end."""
        program = self.extra("client")
        program.begin("ask_on", address=vip, port=port, count=flows)
        counted: dict[str, int] = {}
        yield counted
        program.begin("reset")
        counted |= program.end("ask_on")
        program.end("reset")

    @contextmanager
    def watched(self, prefix: str) -> Iterator[Watch]:
        """All changes of the registry beneath `prefix` from now on."""
        words = [sys.executable, LAB_REGISTRY, *self.endpoints, "watch", prefix]
        with self.lab.popen("lan", words, stdout=subprocess.PIPE, text=True) as process:
            try:
                watch = Watch(process)
                assert watch.next() == "ready"
                yield watch
            finally:
                process.kill()

    @property
    def endpoints(self) -> list[str]:
        lan = self.lab.node("lan")
        etcd = json.loads((lan.directory / "etcd" / "etcd.json").read_text())
        return [f"http://{etcd['host']}:{etcd['client_port']}"]


@contextmanager
def lab_cluster(
    word: str,
    hosts: int = 3,
    definition: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    routed: bool = False,
) -> Iterator[LabCluster]:
    """`word`: letters and digits, one for each module. Without a definition: any port of VIP."""
    with Lab(f"{word}{os.getpid()}") as lab:
        lab.up(hosts, [{"vip": VIP} if definition is None else definition], settings, routed)
        cluster = LabCluster(lab)
        try:
            yield cluster
        finally:
            cluster.close()


def neighbour(cluster: LabCluster) -> str:
    """The MAC that the client has for the VIP."""
    shown = cluster.run("client", "ip", "neighbour", "show", VIP).split()
    return shown[shown.index("lladdr") + 1] if "lladdr" in shown else ""
