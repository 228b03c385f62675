# SPDX-License-Identifier: Apache-2.0
"""The daemons of a run, under a supervisor as systemd is one: what ends by itself starts again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from anyport.lab import Lab
from tests.chaos.recorder import Recorder

LOOK_SECONDS = 0.1
STARTING_SECONDS = 2.0
"""In which a daemon that was launched has joined its cgroup."""


class Daemons:
    def __init__(self, lab: Lab, recorder: Recorder) -> None:
        self._lab = lab
        self._recorder = recorder
        self._lock = threading.Lock()
        self._away: set[str] = set()
        self._launched = dict.fromkeys(lab.hosts, time.monotonic())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def end(self, hosts: Sequence[str], number: signal.Signals) -> None:
        """Sends it; they are not started again before `launch`."""
        with self._lock:
            self._away |= set(hosts)
        self._send(hosts, number)

    def launch(self, hosts: Sequence[str], packages: Path | None = None) -> None:
        """Once what was there is gone."""
        for host in hosts:
            while self._lab.daemon_pid(host) is not None:
                time.sleep(LOOK_SECONDS / 10)
            with self._lock:
                self._start(host, packages)
                self._away.discard(host)

    def freeze(self, hosts: Sequence[str]) -> None:
        with self._lock:
            self._away |= set(hosts)
        self._send(hosts, signal.SIGSTOP)

    def thaw(self, hosts: Sequence[str]) -> None:
        self._send(hosts, signal.SIGCONT)
        with self._lock:
            self._away -= set(hosts)

    def _send(self, hosts: Sequence[str], number: signal.Signals) -> None:
        for pid in map(self._lab.daemon_pid, hosts):
            with suppress(ProcessLookupError):
                if pid is not None:
                    os.kill(pid, number)

    def _start(self, host: str, packages: Path | None = None) -> None:
        self._lab.launch_daemon(host, packages)
        self._launched[host] = time.monotonic()

    def _supervise(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for host in self._lab.hosts:
                with self._lock:
                    if self._is_missing(host):
                        self._recorder.tell("daemon", host=host)
                        self._start(host)

    def _is_missing(self, host: str) -> bool:
        starting = time.monotonic() - self._launched[host] < STARTING_SECONDS
        return host not in self._away and not starting and self._lab.daemon_pid(host) is None
