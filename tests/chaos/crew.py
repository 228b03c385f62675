# SPDX-License-Identifier: Apache-2.0
"""The processes of a run that are no daemons: servers, clients, and who listens on the wire."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from anyport.lab import Lab
from tests.chaos.clients import FTP_LENGTH
from tests.chaos.recorder import Recorder
from tests.chaos.servers import content

ROOT = Path(__file__).parents[2]


class Crew:
    def __init__(self, lab: Lab, vip: str, directory: Path, recorder: Recorder, seed: int) -> None:
        self._lab = lab
        self._vip = vip
        self._directory = directory
        self._history = str(directory / "history.jsonl")
        self._recorder = recorder
        self._seed = seed
        self._servers: dict[str, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        files = self._directory / "ftp"
        files.mkdir()
        (files / str(FTP_LENGTH)).write_bytes(content(FTP_LENGTH))
        for host in self._lab.hosts:
            self.start_servers(host)
        self._wire = self._begin("lan", "wire", self._vip, self._history, *self._lab.hosts)
        words = (self._vip, self._history, str(self._seed), *self._lab.hosts)
        self._clients = self._begin("client", "clients", *words)

    def start_servers(self, host: str) -> None:
        """Returns when they listen."""
        files = str(self._directory / "ftp")
        made = self._begin(host, "servers", host, self._vip, self._history, files)
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n", f"the servers of {host} did not start"
        with self._lock:
            self._servers[host] = made

    def kill_servers(self, host: str) -> None:
        """As kill -9 does."""
        with self._lock:
            server = self._servers.pop(host)
        self._recorder.tell("died", host=host)
        server.kill()
        server.communicate()

    def tell_servers(self, host: str, *words: Any) -> None:
        """Nothing, if they are away."""
        with self._lock, suppress(KeyError, BrokenPipeError):
            print(*words, file=self._servers[host].stdin, flush=True)

    def finish(self, seconds: float) -> None:
        """No new connections; returns when those that are there have ended."""
        with suppress(subprocess.TimeoutExpired):
            self._clients.communicate(timeout=seconds)

    def stop(self) -> None:
        for process in (self._clients, self._wire, *self._servers.values()):
            process.kill()
            process.communicate()

    def _begin(self, node: str, module: str, *words: str) -> subprocess.Popen[str]:
        log = (self._directory / f"{module}-{node}.log").open("a")
        made: subprocess.Popen[str] = self._lab.popen(
            node,
            [sys.executable, "-m", f"tests.chaos.{module}", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        log.close()
        return made
