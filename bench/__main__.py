# SPDX-License-Identifier: Apache-2.0
"""All parts, one after the other; then docs/benchmarks.md: `make bench`.

`--parts` measures some anew, and leaves the figures of the others as they are.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from bench import report
from bench.command import leave_by_signal, parser, print_series
from bench.machine import about
from bench.parts import PARTS
from bench.rounds import progress
from bench.series import Results, Series, renewed


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--docs", type=Path, default=report.DOCS)
    chosen = options.parse_args()
    leave_by_signal()
    machine = about(chosen.rounds, chosen.seconds)
    series: list[Series] = []
    failed = []
    for part in chosen.parts:
        try:
            found = PARTS[part].measure(chosen.rounds, chosen.seconds)
        except Exception:
            traceback.print_exc()
            failed.append(part)
            continue
        print_series(found)
        series += found
    saved = chosen.docs / "benchmarks/results.json"
    results = Results(machine, series)
    if chosen.parts != list(PARTS) and saved.exists():
        results = renewed(Results.load(saved), results, {s.part for s in series})
    results.save(saved)
    report.write(results, chosen.docs)
    if failed:
        progress(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
