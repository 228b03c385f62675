# SPDX-License-Identifier: Apache-2.0
"""Kernel memory of one connection that is remembered: `python -m bench.memory`.

Of maps what the kernel says that they take (fdinfo: memlock), for each
connection that they are made for; of conntrack its record alone, without the
hash table that it stands in and what NAT adds to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.libbpf import Map, MapType
from bench.command import run_part
from bench.rounds import Case, alternate
from bench.series import Row, Series

PART = "memory"
CONNECTIONS = 1 << 18
BYTES = Row(f"a connection, table for {CONNECTIONS:,}", "bytes")
_KEY, _VALUE = 40, 16  # two addresses, two ports, protocol, padding; slot, state, last seen


def measure(rounds: int, seconds: int) -> list[Series]:
    """Once: it is always the same."""
    cases = {
        "anyport": anyport,
        "the kernel's LRU hash": lru_hash,
        "nftables (conntrack)": conntrack,
    }
    return alternate(PART, [Case(name, partial(_row, one)) for name, one in cases.items()], 1)


def _row(one: Callable[[], float]) -> Mapping[Row, float]:
    return {BYTES: one()}


def anyport() -> float:
    kernel = DistributorKernel.load(1, None, CONNECTIONS, 7)
    try:
        return locked(kernel.table.map) / CONNECTIONS
    finally:
        kernel.close()


def lru_hash() -> float:
    made = Map.create(MapType.LRU_HASH, "flows", _KEY, _VALUE, CONNECTIONS)
    try:
        return locked(made) / CONNECTIONS
    finally:
        made.close()


def conntrack() -> float:
    for line in Path("/proc/slabinfo").read_text().splitlines():
        name, *fields = line.split()
        if name == "nf_conntrack":
            return float(fields[2])
    raise RuntimeError("no nf_conntrack in /proc/slabinfo")


def locked(of: Map) -> int:
    """Bytes that the map takes."""
    lines = Path(f"/proc/self/fdinfo/{of.fd}").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["memlock"])


def main(arguments: Sequence[str] | None = None) -> None:
    run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    main()
