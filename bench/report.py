# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md and its plots from the figures: `python -m bench.report [RESULTS.json]`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.parts import PARTS
from bench.plot import Bar, Group, figure, svg
from bench.series import Results, Row, Series, direct_of, ratio, ratios, rows_of

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "benchmarks/results.json"

_RATIO = "of direct"
_END_OF = {_RATIO: 2.5, "ns": 400.0, "bytes": 300.0}  # else each row has a scale of its own

HEAD = """\
<!-- Written by `python -m bench.report` from benchmarks/results.json: change that, or bench/. -->
# Benchmarks

`make bench` measures all of this anew and writes this page ([bench/](../bench/report.py)); one part
by itself: `python -m bench.requests --rounds 1 --seconds 1`. All subjects have their turn in each
round, every second round in the opposite order. Figures are medians over the rounds; *of direct* is
the median of each round's ratio to the connection without a forwarder; *least-most* is the spread.
The aims are those that were set before anything was built.
"""

TAIL = """\
## What this does not show

- All hosts are namespaces of one machine and share its cores with client, servers and daemons: a
  forwarder's cost is taken from the same CPUs as the load's. There is no NIC, no interrupt and no
  wire, so the latency of a network is missing.
- There is one target behind each forwarder, so that all have the same servers to feed. What
  distribution over several gains is not in the figures.
- Proxies do work that the others do not: they acknowledge and retransmit on either side. And they
  hide the client's address.
- With nftables answers go back through the forwarder, with anyport past it. That is a property of
  each, not of the set-up.
- Listeners were many with anyport alone: the peers have their ports from a configuration.
- What else the machine did: see the spread, and the load before the run.
- Three daemons, their etcd and the clients share two cores: openings, changes and takeovers wait
  for each other's CPU. An etcd of three members would wait for the LAN and a second disk as well.
- IPv6, fragments and ICMP are tested, not measured.
"""


def write(results: Results, docs: Path = DOCS) -> None:
    plots = docs / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    sections = []
    for part, module in PARTS.items():
        if series := results.of(part):
            title, _, text = (module.__doc__ or "").partition("\n")
            (plots / f"{part}.svg").write_text(plot(title.split(":")[0], series))
            sections.append("\n".join(_section(part, title, text.strip(), series)))
    about = "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in results.about.items())])
    (docs / "benchmarks.md").write_text("\n".join([HEAD, about, "", *sections, TAIL]))


def plot(title: str, series: Sequence[Series]) -> str:
    """Ratios to direct where there is one, else the figures themselves."""
    rows = rows_of(series).items()
    units = {_RATIO if direct_of(found) else row.unit for row, found in rows}
    if len(units) > 1:
        return svg(title, [_group(row, found, f" ({row.unit})") for row, found in rows])
    (unit,) = units
    return svg(f"{title} ({unit})", [_group(*row) for row in rows], _END_OF.get(unit))


def _group(row: Row, found: Sequence[Series], unit: str = "") -> Group:
    base = direct_of(found)
    shown = [(one.subject, ratios(one, base) if base else one.values) for one in found]
    bars = [Bar(name, median(v), min(v), max(v)) for name, v in shown]
    return Group(row.name + unit, bars)


def _section(part: str, title: str, text: str, series: Sequence[Series]) -> Iterator[str]:
    yield f"## {title.split(':')[0]}\n"
    for paragraph in f"`python -m bench.{part}`. {text}".strip().split("\n\n"):
        yield textwrap.fill(paragraph, 100) + "\n"
    yield "| | subject | median | of direct | least-most | aim |"
    yield "|---|---|--:|--:|--:|---|"
    for row, found in rows_of(series).items():
        yield from _lines(row, found)
    yield f"\n![{part}](benchmarks/{part}.svg)\n"


def _lines(row: Row, found: Sequence[Series]) -> Iterator[str]:
    base, label = direct_of(found), f"{row.name} ({row.unit})"
    for one in found:
        share = f"{ratio(one, base):.2f}" if base and one is not base else ""
        spread = f"{figure(min(one.values))}-{figure(max(one.values))}"
        aim = row.aim if one.subject.startswith("anyport") else ""
        yield f"| {label} | {one.subject} | {figure(one.median)} | {share} | {spread} | {aim} |"
        label = ""


def main() -> None:
    parser = argparse.ArgumentParser(description="docs/benchmarks.md from the figures.")
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    write(Results.load(options.results), options.docs)


if __name__ == "__main__":
    main()
