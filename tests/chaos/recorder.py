# SPDX-License-Identifier: Apache-2.0
"""The history of a run: a line of JSON for each event, written by every process that takes part.

Each has `at`, CLOCK_MONOTONIC in seconds, which all network namespaces share, and `kind`:

kind        from      what
round       runner    number; its faults as the scenario has them
fault       runner    what, number, hosts it hit, phase: begin, end, skipped or failed
settled     runner    all daemons agree, and no fault is left
unsettled   runner    they did not within the bound; why
steady      runner    phase: begin (as `settled`), end (the next fault comes)
died        runner    host: its servers are about to be killed
daemon      runner    host: ended by itself, with a status
seen        observer  host, state: what its daemon shows; once for each change
forwarded   wire      host, count, first: packets to the VIP that came from it
announced   wire      host: said in ARP that it has the VIP
opened      server    host, protocol, port, id; zero: of bind(VIP, 0); lasting: not for one client
closed      server    id
accepted    server    host, port, client (its port)
leaked      server    host, protocol: somebody reached the wildcard by the VIP
refused     server    host, zero, errno: a bind that failed, of port 0 or another
probe       client    protocol, port, client (of TCP that connected), began, answer: a host;
                      error: refused, timeout, ...
connection  client    service, port, client, began, connected, answer, ok, error, corrupt
flow        client    port, client, began, answers: (first, last, host), lost: times, corrupt
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Recorder:
    """Appends; a line is one write, so those of several processes never mix (write(2))."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(self, kind: str, at: float | None = None, **fields: Any) -> None:
        """`at`: now, unless it is told."""
        event = {"at": time.monotonic() if at is None else at, "kind": kind, **fields}
        os.write(self._file, json.dumps(event).encode() + b"\n")


class Reader:
    """Follows a history that is being written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._begun = b""

    def new(self) -> list[Event]:
        """What has come since the last call."""
        *lines, self._begun = (self._begun + self._file.read()).split(b"\n")
        return [json.loads(line) for line in lines]


def read(path: Path) -> list[Event]:
    """Of a run that is over, by time."""
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    return sorted(events, key=lambda event: event["at"])
