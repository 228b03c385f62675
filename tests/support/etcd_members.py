# SPDX-License-Identifier: Apache-2.0
"""An etcd of three members in the lab's LAN, each at an address of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anyport.lab import Lab
from tests.support.lab_cluster import eventually
from tests.support.lab_etcd import states

ADDRESSES = ("10.77.0.241", "10.77.0.242", "10.77.0.243")
CLIENT, PEER = 23790, 23791
PULSE = 0.3, 0.1
"""Seconds that a slow member stands still, and runs."""


class EtcdMembers:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.endpoints = [f"http://{address}:{CLIENT}" for address in ADDRESSES]
        for address in ADDRESSES:
            bridge = lab.node("lan").interface
            done = lab.run("lan", ["ip", "address", "add", f"{address}/32", "dev", bridge])
            assert done.returncode == 0, done.stderr
        self.start(*ADDRESSES)
        self._await_leader()

    # ---- what it says ----

    def leader(self) -> str:
        """Its address; empty: there is none, or it does not answer."""
        for address in self._running:
            said = self._status(address)
            if said.get("leader", "0") == said.get("header", {}).get("member_id"):
                return address
        return ""

    def _await_leader(self) -> None:
        eventually(self.leader, "etcd to have a leader")

    def _status(self, address: str) -> dict[str, Any]:
        url = f"http://{address}:{CLIENT}/v3/maintenance/status"
        done = self._lab.run("lan", ["curl", "-sS", "-m", "1", "-d", "{}", url])
        said: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return said

    # ---- what happens to it ----

    def start(self, *addresses: str) -> None:
        for address in addresses:
            data = self._lab.node("lan").directory / f"etcd-{address}"
            with (data.parent / f"{data.name}.log").open("ab") as log:
                self._running[address] = self._lab.popen(
                    "lan", _command(address, str(data)), stdout=log, stderr=log
                )

    def kill(self, *addresses: str) -> None:
        for address in addresses:
            process = self._running.pop(address)
            process.kill()
            process.wait()

    @contextmanager
    def without(self, *addresses: str) -> Iterator[None]:
        """They are killed, and start again with their data."""
        self.kill(*addresses)
        try:
            yield
        finally:
            self.start(*addresses)
            self._await_leader()

    @contextmanager
    def frozen(self, *addresses: str) -> Iterator[None]:
        pids = [self._running[address].pid for address in addresses]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
                eventually(lambda pid=pid: states(pid) == {"T"}, "it to stand still")  # type: ignore[misc]
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            self._await_leader()

    @contextmanager
    def slow(self, *addresses: str) -> Iterator[None]:
        """Each stands still for three quarters of the time, in pulses."""
        over = threading.Event()
        pids = [self._running[address].pid for address in addresses]
        pulses = threading.Thread(target=_pulse, args=(pids, over))
        pulses.start()
        try:
            yield
        finally:
            over.set()
            pulses.join()


def _pulse(pids: Sequence[int], over: threading.Event) -> None:
    still, runs = PULSE
    while not over.is_set():
        for number, pause in ((signal.SIGSTOP, still), (signal.SIGCONT, runs)):
            for pid in pids:
                os.kill(pid, number)
            over.wait(pause)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _command(address: str, data: str) -> list[str]:
    peers = ",".join(f"{_name(a)}=http://{a}:{PEER}" for a in ADDRESSES)
    client, peer = f"http://{address}:{CLIENT}", f"http://{address}:{PEER}"
    return [
        "etcd",
        f"--name={_name(address)}",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={peers}",
        "--heartbeat-interval=50",
        "--election-timeout=500",
    ]


def _name(address: str) -> str:
    return f"member-{address.rpartition('.')[2]}"
