# SPDX-License-Identifier: Apache-2.0
"""python -m tests.fuzz [--seed N] [--count N]; --world WORLD FRAME... for what it has found."""

from __future__ import annotations

import argparse
import random
import sys

from tests.fuzz.hunt import RUN, hunt, parse_shot, run
from tests.packet.twin import fresh_twin


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--count", type=int, default=1_000_000, help="packets")
    parser.add_argument("--world", help="of the frames given, each hexadecimal")
    parser.add_argument("frames", nargs="*", type=parse_shot)
    options = parser.parse_args()
    with fresh_twin() as twin:
        if options.world:
            difference = run(twin, options.world, options.frames)
            print(difference or "program and model agree")
            return bool(difference)
        print(f"seed {options.seed}", flush=True)
        for number, finding in enumerate(hunt(twin, options.seed, options.count), 1):
            if finding:
                print(finding)
                return 1
            if number % 250 == 0:
                print(f"{number * RUN} packets", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
