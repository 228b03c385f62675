# SPDX-License-Identifier: Apache-2.0
"""New connections and requests a second, by wrk: `python -m bench.requests`.

64 connections at a time, from one thread, to nginx at the target, which answers
with 3 bytes. New connections: one request each, and nginx closes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

from bench.command import run_part
from bench.rounds import Case, alternate
from bench.series import Row, Series
from bench.world import Subject, world

PART = "requests"
CONNECTIONS = 64
NEW = Row("new connections", "1/s", "≥ 0.95 of direct")
KEPT = Row("keep-alive requests", "1/s", "≥ 0.97 of direct")
HALF = Row("keep-alive, p50", "µs")
SLOWEST = Row("keep-alive, p99", "µs")
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}


def measure(rounds: int, seconds: int) -> list[Series]:
    with world() as subjects:
        cases = [Case(s.name, partial(measure_one, s, seconds)) for s in subjects]
        return alternate(PART, cases, rounds)


def measure_one(subject: Subject, seconds: int) -> Mapping[Row, float]:
    new = _wrk(subject, seconds, "-H", "Connection: close")
    kept = _wrk(subject, seconds)
    return {
        NEW: rate(new),
        KEPT: rate(kept),
        HALF: latency(kept, 50),
        SLOWEST: latency(kept, 99),
    }


def _wrk(subject: Subject, seconds: int, *options: str) -> str:
    load = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    said = subject.ask("wrk", *load, *options, f"http://{subject.address}/")
    if failures := failed(said):
        raise RuntimeError(f"{subject.name}: wrk: {failures}")
    return said


def rate(said: str) -> float:
    """Requests a second, of wrk's report."""
    return float(_found(r"Requests/sec:\s+([\d.]+)", said)[1])


def latency(said: str, percent: int) -> float:
    """Microseconds, of wrk's report."""
    found = _found(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", said)
    return float(found[1]) * _MICROSECONDS[found[2]]


def failed(said: str) -> str:
    """What wrk says of answers that were none; empty: all were."""
    found = re.search(r"Socket errors:.*|Non-2xx.*", said)
    return found[0] if found else ""


def _found(pattern: str, said: str) -> re.Match[str]:
    found = re.search(pattern, said, re.MULTILINE)
    if not found:
        raise RuntimeError(f"wrk said something else: {said}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    main()
