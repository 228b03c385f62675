# SPDX-License-Identifier: Apache-2.0
"""A target's programs: what distributors tunnel is decapsulated, and the MSS told fits."""

from __future__ import annotations

from pathlib import Path

from anyport.kernel.target import TargetKernel
from tests.packet.wire import Wire


def test_attached_and_taken_off(wire: Wire, pins: Path) -> None:
    target = TargetKernel.attach(wire.index, pins)
    assert target.attached()
    target.detach()
    target.close()
    assert list((pins / "links").iterdir()) == []
    assert not list(pins.glob("tunnel*"))
