# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own BPF programs, compiled when they are wanted."""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from anyport.kernel.libbpf import Object


def loaded(name: str, max_entries: Mapping[str, int] | None = None) -> Object:
    """bench/<name>.bpf.c. Raises KernelError."""
    source = Path(__file__).with_name(f"{name}.bpf.c")
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    options = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", include]
    with tempfile.TemporaryDirectory() as directory:
        built = Path(directory) / f"{name}.bpf.o"
        subprocess.run(["clang", *options, "-c", str(source), "-o", str(built)], check=True)
        return Object.open(built, max_entries=max_entries).load()
