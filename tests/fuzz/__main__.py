# SPDX-License-Identifier: Apache-2.0
"""python -m tests.fuzz [--seed N] [--count N]; --world WORLD FRAME... for what it has found."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from tests.fuzz import target
from tests.fuzz.hunt import RUN, Shot, hunt, parse_shot, run
from tests.packet.twin import fresh_twin


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--count", type=int, default=1_000_000, help="packets, of each program")
    parser.add_argument("--world", help="of the frames given, each hexadecimal")
    parser.add_argument("frames", nargs="*", type=parse_shot)
    options = parser.parse_args()
    if options.world:
        difference = again(options.world, options.frames)
        print(difference or "program and model agree")
        return bool(difference)
    print(f"seed {options.seed}", flush=True)
    with fresh_twin() as twin, target.fresh_target() as kernel:
        hunts = (
            hunt(twin, options.seed, options.count),
            target.hunt(kernel, options.seed, options.count),
        )
        for number, findings in enumerate(zip(*hunts, strict=True), 1):
            for finding in filter(None, findings):
                print(finding)
                return 1
            if number % 250 == 0:
                print(f"{number * RUN} packets", flush=True)
    return 0


def again(world: str, shots: Sequence[Shot]) -> str:
    """The difference that they showed, if they still do."""
    if world.startswith(target.PREFIX):
        with target.fresh_target() as kernel:
            finding = target.run(kernel, world, shots)
            return finding.difference if finding else ""
    with fresh_twin() as twin:
        return run(twin, world, shots)


if __name__ == "__main__":
    sys.exit(main())
