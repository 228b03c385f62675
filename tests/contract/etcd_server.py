# SPDX-License-Identifier: Apache-2.0
"""A real etcd process for the contract tests."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any


class EtcdServer:
    """Debian's etcd on free loopback ports, which it keeps over restarts, in `directory`."""

    def __init__(
        self, directory: Path, tls: Sequence[str] = (), options: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.port, peer_port = free_ports(2)
        self.endpoint = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        client = f"{'https' if tls else 'http'}://{self.endpoint}"
        peer = f"http://127.0.0.1:{peer_port}"
        self._command = [
            "etcd",
            f"--data-dir={directory}/data",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--heartbeat-interval=10",
            "--election-timeout=50",
            *tls,
            *options,
        ]

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL; does nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def take_over_from(self, other: EtcdServer) -> None:
        """Starts with the data of `other`, which ends, in place of its own."""
        self.kill()
        other.kill()
        shutil.rmtree(self.directory / "data")
        (other.directory / "data").rename(self.directory / "data")
        self.start()

    def freeze(self) -> None:
        """Returns when it stands still: until then its threads may still answer (waitpid(2))."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def compact(self, revision: int) -> None:
        self._ask("kv/compaction", {"revision": str(revision), "physical": True})

    def stored(self) -> list[str]:
        """Keys."""
        every = base64.b64encode(b"\0").decode()
        found = self._ask("kv/range", {"key": every, "range_end": every, "keys_only": True})
        return [base64.b64decode(kv["key"]).decode() for kv in found.get("kvs", ())]

    def _ask(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        """By etcd's JSON gateway, so that the client under test is not its own witness."""
        url = f"http://{self.endpoint}/v3/{what}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, json.dumps(request).encode(), timeout=10) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


def free_ports(number: int) -> list[int]:
    """Free now: all are open at once, so they differ."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [s.getsockname()[1] for s in sockets]
