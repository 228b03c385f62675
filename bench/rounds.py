# SPDX-License-Identifier: Apache-2.0
"""Rounds in which every subject has its turn, so that what the machine does besides meets all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.series import Row, Series


@dataclass(frozen=True)
class Case:
    """`measure` runs once and gives the figures of one row, or of a few; RuntimeError: not now."""

    subject: str
    measure: Callable[[], Mapping[Row, float]]


def alternate(part: str, cases: Sequence[Case], rounds: int) -> list[Series]:
    """Every second round goes backwards: no subject always follows the same one."""
    found: dict[tuple[Row, str], list[float]] = {}
    for number in range(rounds):
        progress(f"{part}: round {number + 1} of {rounds}")
        for case in cases if number % 2 == 0 else reversed(cases):
            for row, value in _measured(case).items():
                found.setdefault((row, case.subject), []).append(value)
    return [Series(part, row, subject, values) for (row, subject), values in found.items()]


def _measured(case: Case) -> Mapping[Row, float]:
    """Of what failed once (a server still busy, an answer that timed out) not all need fail."""
    try:
        return case.measure()
    except RuntimeError as error:
        progress(f"again: {error}")
        return case.measure()


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
