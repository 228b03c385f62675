# SPDX-License-Identifier: Apache-2.0
"""Where and when something was measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def about(rounds: int, seconds: int) -> dict[str, str]:
    load = ", ".join(f"{part:.2f}" for part in os.getloadavg())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_processor()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "load before": load,
        "command": f"make bench ROUNDS={rounds} SECONDS={seconds}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
