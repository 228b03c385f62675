# SPDX-License-Identifier: Apache-2.0
"""Bulk transfers, by iperf3: `python -m bench.bulk`.

Up is from the client to the target. What counts is what the receiver has read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial

from bench.command import run_part
from bench.peers import BULK
from bench.rounds import Case, alternate
from bench.series import Row, Series
from bench.world import Subject, world

PART = "bulk"
SHAPES: Mapping[Row, Sequence[str]] = {
    Row("up, 1 stream", "Gbit/s", "≥ 0.9 of direct"): ("-P1",),
    Row("up, 4 streams", "Gbit/s"): ("-P4",),
    Row("down, 1 stream", "Gbit/s"): ("-P1", "-R"),
    Row("down, 4 streams", "Gbit/s"): ("-P4", "-R"),
}


def measure(rounds: int, seconds: int) -> list[Series]:
    with world() as subjects:
        cases = [Case(s.name, partial(measure_one, s, seconds)) for s in subjects]
        return alternate(PART, cases, rounds)


def measure_one(subject: Subject, seconds: int) -> Mapping[Row, float]:
    return {row: iperf(subject, seconds, *options) for row, options in SHAPES.items()}


def iperf(subject: Subject, seconds: int, *options: str) -> float:
    """Gbit/s at the receiver. Raises RuntimeError with what iperf3 says instead."""
    to = ["-c", subject.address, "-p", str(BULK), "-t", str(seconds), "--json"]
    said = json.loads(subject.ask("iperf3", *to, *options))
    if "error" in said:
        raise RuntimeError(f"{subject.name}: iperf3: {said['error']}")
    return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    main()
