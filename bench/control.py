# SPDX-License-Identifier: Apache-2.0
"""The control path: openings, changes, takeovers, restarts: `python -m bench.control`.

Three hosts and an etcd on one machine. From listen() to connected: listeners
open one after another on the hosts in turn; the client tries every 0.1 ms from
before on. What listens on the distributor itself it serves at once, so the
others are shown apart. Each write of etcd waits for its disk: see fdatasync.

Changes kept up with: listeners open and close on all three hosts in even
steps; a rate counts if the distributor's kernel has what is open, and nothing
else, at most 250 ms after the last change. 8,000 a second is the highest that
is tried.

Silence is the longest time between two answers to a client that sends a
datagram every 2 ms. Killed: the distributor's link and daemon at once. Its
lease, renewed four times in its TTL, has to run out first, and etcd looks twice
a second for those that have; after that the next host is elected, programs the
whole table and announces itself.

CPU is of all threads of one daemon. The process's memory is what is resident,
shared libraries included. Restarted: from execve() until the daemon says that
it is ready and does what it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from bench import churn, footprint, opening, takeover
from bench.command import Measure, run_part
from bench.series import Series

PART = "control"
GROUPS: Mapping[str, Measure] = {
    name: partial(group.measure, PART)
    for name, group in (
        ("opening", opening),
        ("churn", churn),
        ("takeover", takeover),
        ("footprint", footprint),
    )
}


def measure(rounds: int, seconds: int) -> list[Series]:
    return [series for group in GROUPS.values() for series in group(rounds, seconds)]


def main(arguments: Sequence[str] | None = None) -> None:
    run_part(__doc__, measure, arguments, GROUPS)


if __name__ == "__main__":
    main()
