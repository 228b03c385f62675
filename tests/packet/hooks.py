# SPDX-License-Identifier: Apache-2.0
"""One packet through either form of the program, and what shows of what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from anyport.decide.rows import MAX_HOSTS
from anyport.kernel import abi
from tests.packet.world import (
    DROPPED,
    REDIRECTED,
    XDP_DROP,
    XDP_PASS,
    XDP_TX,
    World,
    mac_of,
    verdict_in,
)

NO_SLOT = MAX_HOSTS
"""What XDP hands on with a packet for no host."""
_SLOTS = {mac_of(slot): slot for slot in range(MAX_HOSTS)}


@dataclass(frozen=True)
class Met:
    """None: it does not show."""

    action: int | None
    out: bytes
    """But for the MACs that XDP gives a frame."""
    counted: bool
    verdict: str | None = None
    slot: int | None = None


def meet(world: World, frame: bytes, context: bytes = b"") -> Met:
    """By `world.hook`. A packet that the kernel has put together never is in XDP."""
    if world.hook == "xdp" and not context:
        return _meet_in_xdp(world, frame)
    action, out, _, _ = world.kernel.program.test_run(frame, context)
    return Met(action, out, counted=True)


def _meet_in_xdp(world: World, frame: bytes) -> Met:
    """What it hands on, TC would only act on; a test run has no way to give it the choice."""
    assert world.kernel.xdp_program is not None
    action, out, _, _ = world.kernel.xdp_program.test_run(frame)
    if action == XDP_TX and out[6:12] == frame[:6]:
        slot = _SLOTS.get(out[:6], NO_SLOT)
        return Met(REDIRECTED, frame[:12] + out[12:], counted=True, slot=slot)
    if action == XDP_DROP:
        return Met(DROPPED, out, counted=True)
    if action != XDP_PASS:
        return Met(action, out, counted=True)
    metadata = out[: -len(frame)]
    if not metadata:
        action, out, _, _ = world.kernel.program.test_run(out)
        return Met(action, out, counted=True)
    slot = abi.HandedOn.from_buffer_copy(metadata).slot
    return Met(None, out[len(metadata) :], False, verdict_in(metadata), slot)
