# SPDX-License-Identifier: Apache-2.0
"""The first rounds of one seed; `make chaos` runs for as long as one likes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.checker import violations
from tests.chaos.recorder import read
from tests.chaos.run import run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SEED, SECONDS = 482, 25.0


def test_a_short_run(tmp_path: Path) -> None:
    run(SEED, SECONDS, 3, tmp_path, print)
    history = read(tmp_path / "history.jsonl")
    kinds = {event["kind"] for event in history}
    assert kinds >= {"fault", "settled", "seen", "forwarded", "probe", "connection", "accepted"}
    found = violations(history)
    assert not found, "\n".join(map(str, found))
