# SPDX-License-Identifier: Apache-2.0
"""What was measured: figures by part, row and subject, and how they lie in a JSON file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DIRECT = "direct"
"""The subject without a forwarder, to which the others are compared."""


@dataclass(frozen=True)
class Row:
    """What is measured of every subject. `aim` is anyport's, in words."""

    name: str
    unit: str
    aim: str = ""


@dataclass(frozen=True)
class Series:
    """A row's figures of one subject, one a round, in `row.unit`."""

    part: str
    row: Row
    subject: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Results:
    """`about`: date, machine, command, rounds, seconds, in words."""

    about: Mapping[str, str]
    series: Sequence[Series] = field(default_factory=tuple)

    def of(self, part: str) -> list[Series]:
        return [series for series in self.series if series.part == part]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        raw = json.loads(path.read_text())
        return cls(raw["about"], [_series(one) for one in raw["series"]])


def renewed(old: Results, new: Results, parts: Collection[str]) -> Results:
    """`old`, with these parts' figures out of `new`, and when those were measured."""
    when = "{date}, load before {load before}, {command}".format_map(new.about)
    about = {**old.about, **{f"{part} anew": when for part in sorted(parts)}}
    return Results(about, [*(s for s in old.series if s.part not in parts), *new.series])


def ratios(of: Series, to: Series) -> list[float]:
    """Round by round: the two of a round met the same noise."""
    return [a / b for a, b in zip(of.values, to.values, strict=True)]


def ratio(of: Series, to: Series) -> float:
    return statistics.median(ratios(of, to))


def direct_of(row: Iterable[Series]) -> Series | None:
    return next((one for one in row if one.subject == DIRECT), None)


def rows_of(series: Iterable[Series]) -> dict[Row, list[Series]]:
    """In the order of their first appearance."""
    found: dict[Row, list[Series]] = {}
    for one in series:
        found.setdefault(one.row, []).append(one)
    return found


def _series(raw: Mapping[str, Any]) -> Series:
    return Series(raw["part"], Row(**raw["row"]), raw["subject"], raw["values"])
