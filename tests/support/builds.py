# SPDX-License-Identifier: Apache-2.0
"""Another version of anyport: a copy of the sources, changed, for daemons of a lab to run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

_PACKETS = "found->by_verdict[verdict].packets++;"
_JUMP = 'asm volatile("goto +0");'
OTHER_PROGRAMS = {
    "bpf/listen_maps.h": ("*value += 1;", f"{{ {_JUMP} *value += 1; }}"),
    "bpf/counters.h": (_PACKETS, f"{_JUMP} {_PACKETS}"),
    "bpf/tunnel.h": ("(*counter)++;", f"{{ {_JUMP} (*counter)++; }}"),
}
"""A jump to the next instruction: other programs that do the same."""


def build(place: Path, changes: Mapping[str, tuple[str, str]]) -> Path:
    """In `place`; `changes`: path of a file -> what is there, and what takes its place."""
    for folder in ("src", "bpf"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, (before, after) in changes.items():
        text = (place / path).read_text()
        assert before in text, f"{path} has no {before!r}"
        (place / path).write_text(text.replace(before, after))
    subprocess.run(["make", "-s", "-C", str(place / "bpf")], check=True)
    return place


@contextmanager
def version(place: Path) -> Iterator[None]:
    """Daemons that start meanwhile, and commands, are of that build."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{place / 'src'}:{before or ''}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
