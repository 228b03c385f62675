# SPDX-License-Identifier: Apache-2.0
"""python -m tests.chaos [--seed N] [--minutes M] [--hosts H]; --check HISTORY judges one again.

Exit status 1: there were violations, which it prints; the history and the daemons' logs are in
the directory that it names.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

from tests.chaos.checker import violations
from tests.chaos.recorder import Event, read
from tests.chaos.run import run

RUNS = Path(__file__).parents[2] / "build/chaos"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--check", type=Path, metavar="HISTORY")
    options = parser.parse_args()
    if options.check:
        return judge(read(options.check))
    print(f"seed {options.seed}", flush=True)
    directory = fresh(RUNS / f"seed-{options.seed}")
    run(options.seed, options.minutes * 60, options.hosts, directory, say)
    print(f"history: {directory / 'history.jsonl'}")
    return judge(read(directory / "history.jsonl"))


def fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def say(line: str) -> None:
    print(line, flush=True)


def judge(events: list[Event]) -> int:
    print(summary(events))
    found = violations(events)
    for violation in found:
        print(violation)
    print(f"{len(found)} violations" if found else "no violation")
    return bool(found)


def summary(events: list[Event]) -> str:
    """What there was to judge."""
    kinds = Counter(event["kind"] for event in events)
    begun = [e for e in events if e["kind"] == "fault" and e["phase"] == "begin"]
    faults = Counter(event["what"] for event in begun)
    broken = sum(e["kind"] == "connection" and e["connected"] and not e["ok"] for e in events)
    return (
        f"{kinds['round']} rounds; faults: "
        + ", ".join(f"{what} {count}" for what, count in sorted(faults.items()))
        + f"; {kinds['connection']} connections, {broken} of them broken; {kinds['flow']} flows; "
        f"{kinds['probe']} probes; {kinds['opened']} listeners"
    )


if __name__ == "__main__":
    sys.exit(main())
