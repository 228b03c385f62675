# SPDX-License-Identifier: Apache-2.0
"""The whole of anyport in a lab: one host distributes, the others are targets."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anyport.kernel import abi
from anyport.kernel.libbpf import Map
from anyport.lab import Lab
from anyport.lab.node import LAN
from anyport.model import Protocol

VIP = "10.77.0.200"
LISTENERS = str(Path(__file__).with_name("listeners.py"))
PLAYERS = str(Path(__file__).with_name("players.py"))
DELETION = str(Path(__file__).with_name("deletion.py"))
FIRST_PORT = 10_000
"""Of many listeners: below all port blocks."""
PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.0002

PortKeys = tuple[Protocol, range]
Settings = Mapping[str, Mapping[str, Any]]


class Cluster:
    """Goes down at the end of the `with`."""

    def __init__(self, name: str, settings: Settings | None = None, hosts: int = 2) -> None:
        """`settings`: sections of the hosts' configuration."""
        self.lab = Lab(name)
        self.lab.down()  # what a killed run left
        self.lab.up(hosts, [{"vip": VIP}], settings)
        self._programs: list[subprocess.Popen[str]] = []
        (vip,) = self.lab.client("host1").get("status")["vips"]
        self.distributor: str = vip["distributor"]
        self.target = next(host for host in self.lab.hosts if host != self.distributor)
        self._pins = self.lab.node(self.distributor).pins

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.lab.down()
        for program in self._programs:
            program.communicate()

    def listeners(self, first: int, count: int, protocol: Protocol = Protocol.TCP) -> Listeners:
        """On the VIP at the target, not open yet."""
        words = (LISTENERS, protocol.name.lower(), VIP, str(first), str(count))
        program = self._python(self.target, *words)
        return Listeners(self, program, (protocol, range(first, first + count)))

    def player(self, node: str, role: str, *arguments: object) -> Player:
        """A program of players.py, for the VIP; it ends with the cluster."""
        return Player(self._python(node, PLAYERS, role, VIP, *map(str, arguments)))

    def deletion(self, key: str) -> Player:
        """Says when the registry's key is deleted; looks from the return of this on."""
        state = json.loads((self.lab.node(LAN).directory / "etcd" / "etcd.json").read_text())
        endpoint = f"http://{state['host']}:{state['client_port']}"
        player = Player(self._python(LAN, DELETION, endpoint, key))
        player.said()
        return player

    def _python(self, node: str, *words: str) -> subprocess.Popen[str]:
        program: subprocess.Popen[str] = self.lab.popen(
            node,
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._programs.append(program)
        return program

    def await_routes(
        self, ports: Sequence[int], protocol: Protocol = Protocol.TCP, there: bool = True
    ) -> float:
        """CLOCK_MONOTONIC when the distributor's kernel has routes for all, or for none of them.

        Each port is asked about until it is so; seldom enough to leave the CPU to the daemons.
        """
        give_up = time.monotonic() + PATIENCE_SECONDS
        with self._port_table() as table:
            for port in ports:
                row = (protocol * abi.PORTS + port).to_bytes(4, "little")
                while any(table.lookup(row) or b"") != there:
                    if time.monotonic() > give_up:
                        raise TimeoutError(f"port {port}: no change of its route")
                    time.sleep(_PAUSE_SECONDS)
        return time.monotonic()

    @contextlib.contextmanager
    def _port_table(self) -> Iterator[Map]:
        """Of the VIP, which is the only one."""
        outer = Map.open_pinned(self._pins / "routes")
        table = Map.open_id(int.from_bytes(outer.lookup(bytes(4)) or b"", "little"))
        try:
            yield table
        finally:
            table.close()
            outer.close()


class Listeners:
    """listeners.py, running."""

    def __init__(self, cluster: Cluster, program: subprocess.Popen[str], ports: PortKeys) -> None:
        self._cluster, self._program = cluster, program
        self._protocol, self._ports = ports
        self._open = False

    def toggle(self) -> float:
        """Opens or closes all; seconds until the distributor's kernel has them all, or none."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        print(file=self._program.stdin, flush=True)
        began = float(self._program.stdout.readline())
        self._open = not self._open
        return self._cluster.await_routes(self._ports, self._protocol, self._open) - began


class Player:
    """players.py or deletion.py, running: lines in, JSON lines out."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program

    def tell(self, word: object = "") -> None:
        assert self._program.stdin is not None
        print(word, file=self._program.stdin, flush=True)

    def said(self) -> Any:
        """Waits for it. Raises RuntimeError if the program has ended."""
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        if not line:
            raise RuntimeError(f"a program ended: {self._program.args!r}")
        return json.loads(line)

    def ask(self, word: object = "") -> Any:
        self.tell(word)
        return self.said()

    def end(self) -> None:
        self._program.kill()
        self._program.communicate()
