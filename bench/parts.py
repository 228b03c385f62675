# SPDX-License-Identifier: Apache-2.0
"""The parts, in the order of their document; each module's docstring says what it measures."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from bench import bulk, changes, control, flood, memory, packet, requests

PARTS: Mapping[str, ModuleType] = {
    module.PART: module for module in (packet, memory, requests, bulk, flood, changes, control)
}
