# SPDX-License-Identifier: Apache-2.0
"""From listen() on the VIP to the first connection through it: `python -m bench.latency`.

Brings a lab up, opens listeners one after another on its hosts in turn, and
has its client connect to each from before it listens until it is not refused
any more. Both note CLOCK_MONOTONIC, which all namespaces of a machine share:
the program just before listen(), the client when connect() has succeeded. So
the time holds the last retry too, about 50 us.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from anyport.lab import Lab

VIP = "10.77.0.200"
FIRST_PORT = 10_000
GIVE_UP_SECONDS = 10.0


# ---- in the nodes ----


def serve(address: str, port: int) -> float:
    """Listens from now on; when that began."""
    listening.append(made := socket.socket())
    made.bind((address, port))
    began = time.monotonic()
    made.listen()
    return began


def connect(address: str, port: int) -> float | None:
    """When a connection to it had succeeded; None: it never did."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < give_up:
        with socket.socket() as made:
            if made.connect_ex((address, port)) == 0:
                return time.monotonic()
    return None


listening: list[socket.socket] = []


def play(role: str) -> None:
    """For each port on standard input does its part, and says when it was done."""
    act = {"serve": serve, "connect": connect}[role]
    for line in sys.stdin:
        print(json.dumps(act(VIP, int(line))), flush=True)


# ---- outside ----


class Player:
    def __init__(self, lab: Lab, node: str, role: str) -> None:
        self._process = lab.popen(
            node,
            [sys.executable, __file__, "--role", role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, port: int) -> None:
        assert self._process.stdin is not None
        print(port, file=self._process.stdin, flush=True)

    def done(self) -> float:
        """Seconds, by CLOCK_MONOTONIC."""
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        if said is None:
            raise SystemExit(f"no connection within {GIVE_UP_SECONDS:.0f} s")
        return float(said)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def measure(listeners: int, hosts: int) -> list[float]:
    """Seconds of each."""
    with Lab("latency") as lab:
        lab.up(hosts, [{"vip": VIP}])
        client = Player(lab, "client", "connect")
        servers = [Player(lab, host, "serve") for host in lab.hosts]
        try:
            return [one(servers[i % hosts], client, FIRST_PORT + i) for i in range(listeners)]
        finally:
            for player in (client, *servers):
                player.end()


def one(server: Player, client: Player, port: int) -> float:
    client.begin(port)
    server.begin(port)
    connected = client.done()
    return connected - server.done()


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    figures = {"median": cuts[49], "p99": cuts[98], "max": max(seconds)}
    return {"listeners": len(seconds), **{k: round(v * 1000, 2) for k, v in figures.items()}}


def main() -> None:
    options = argparse.ArgumentParser(description="From listen() to the first connection.")
    options.add_argument("--listeners", type=int, default=300)
    options.add_argument("--hosts", type=int, default=3)
    options.add_argument("--json", action="store_true")
    options.add_argument("--role", choices=["serve", "connect"], help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.role:
        play(chosen.role)
        return
    found = summary(measure(chosen.listeners, chosen.hosts))
    line = (
        "listen() to first connection, {listeners} listeners: "
        "median {median} ms, p99 {p99} ms, max {max} ms"
    )
    print(json.dumps(found) if chosen.json else line.format(**found))


if __name__ == "__main__":
    main()
