# SPDX-License-Identifier: Apache-2.0
"""No decision is made by the wall clock, which an operator or NTP may set to anything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WALL_CLOCK = re.compile(
    r"\btime\.time\w*\(|\bdatetime\b|CLOCK_REALTIME|CLOCK_TAI|bpf_ktime_get_tai|\blocaltime\b"
)
SHOWN = {
    "src/anyport/daemon/daemon.py": 1,  # since when a host is a member
    "src/anyport/registry/membership.py": 1,  # the same, of a new lease
    "src/anyport/daemon/drains.py": 1,  # since when it is drained
    "src/anyport/daemon/status.py": 1,  # since when the registry is out of reach
}
"""What is only shown, or tells two memberships apart: no later is earlier by it."""
SOURCES = sorted(p for d in ("src/anyport", "bpf") for p in (ROOT / d).rglob("*.[pch]*"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_wall_clock_decides_nothing(path: Path) -> None:
    if path.suffix in {".py", ".h", ".c"}:
        found = WALL_CLOCK.findall(path.read_text())
        assert len(found) == SHOWN.get(str(path.relative_to(ROOT)), 0), found
