# SPDX-License-Identifier: Apache-2.0
"""What is pinned in a host of a lab, by the kernel's own numbers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Pinned:
    """Ids by name. A link's program is by its tag, too: a digest of its instructions."""

    maps: dict[str, int]
    links: dict[str, int]
    programs: dict[str, int]
    tags: dict[str, str]


def pinned(pins: Path) -> Pinned:
    maps = {path.name: _show("map", path)["id"] for path in pins.iterdir() if path.is_file()}
    links = {path.name: _show("link", path) for path in (pins / "links").iterdir()}
    programs = {name: link["prog_id"] for name, link in links.items()}
    tags = {name: _bpftool("prog", "show", "id", str(id))["tag"] for name, id in programs.items()}
    return Pinned(maps, {name: link["id"] for name, link in links.items()}, programs, tags)


def _show(what: str, path: Path) -> Any:
    return _bpftool(what, "show", "pinned", str(path))


def _bpftool(*words: str) -> Any:
    command = ["/usr/sbin/bpftool", "--json", *words]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
