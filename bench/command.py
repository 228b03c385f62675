# SPDX-License-Identifier: Apache-2.0
"""The command line of one part."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.machine import about
from bench.plot import figure
from bench.series import Results, Series, direct_of, ratio, rows_of

Measure = Callable[[int, int], list[Series]]
"""(rounds, seconds of each figure) -> what was found."""

ROUNDS, SECONDS = 5, 2


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--rounds", type=int, default=ROUNDS)
    made.add_argument("--seconds", type=int, default=SECONDS, help="of each figure")
    return made


def run_part(
    description: str | None,
    measure: Measure,
    arguments: Sequence[str] | None = None,
    groups: Mapping[str, Measure] | None = None,
) -> None:
    """`groups`: what `measure` consists of, if each can be measured by itself."""
    options = parser(description)
    options.add_argument("--json", type=Path, help="write every figure here")
    if groups:
        options.add_argument("--only", choices=groups)
    chosen = options.parse_args(arguments)
    leave_by_signal()
    if groups and chosen.only:
        measure = groups[chosen.only]
    series = measure(chosen.rounds, chosen.seconds)
    print_series(series)
    if chosen.json:
        Results(about(chosen.rounds, chosen.seconds), series).save(chosen.json)


def leave_by_signal() -> None:
    """As by an exception: what was set up is taken down."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def print_series(series: Sequence[Series]) -> None:
    for row, found in rows_of(series).items():
        base = direct_of(found)
        print(f"{row.name} ({row.unit}){f', aim {row.aim}' if row.aim else ''}")
        for one in found:
            share = f"{ratio(one, base):.2f}" if base else ""
            spread = f"{figure(min(one.values))}-{figure(max(one.values))}"
            print(f"    {one.subject:28} {figure(one.median):>10} {share:>6}  {spread}")
