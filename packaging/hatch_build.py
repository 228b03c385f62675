# SPDX-License-Identifier: Apache-2.0
"""Build hook: compiles bpf/*.bpf.c into the package, so that the wheel ships the objects."""

from __future__ import annotations

import subprocess
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileBpf(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "wheel":
            subprocess.run(["make", "--silent", "-C", f"{self.root}/bpf"], check=True)
