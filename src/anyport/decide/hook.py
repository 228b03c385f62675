# SPDX-License-Identifier: Apache-2.0
"""Where the distributor meets packets: in the driver (XDP), or at the interface (TC) alone."""

from __future__ import annotations

from dataclasses import dataclass

_WHOLE_SEGMENTS = frozenset({"veth", "virtio_net", "tun", "hv_netvsc", "vif", "vmxnet3"})
"""They take packets of up to 64 KiB from the other side in one piece, which XDP would end: on
veth it cut bulk throughput from 15.6 to 2.7 Gbit/s."""


@dataclass(frozen=True, slots=True)
class Hook:
    """`name` is `xdp` or `tc`; `why` a half-sentence."""

    name: str
    why: str


def wanted_hook(wish: str, driver: str, has_vlans: bool) -> Hook:
    """What to try. `wish`: `auto`, `xdp` or `tc`; `driver`: of the LAN interface.

    `has_vlans`: on the interface. XDP does not see a tag that the NIC has taken off.
    """
    if wish != "auto":
        return Hook(wish, "configured")
    if driver in _WHOLE_SEGMENTS:
        return Hook("tc", f"driver {driver}: XDP would end its large segments")
    if has_vlans:
        return Hook("tc", "there are VLANs on the interface, whose tags XDP may not see")
    return Hook("xdp", f"driver {driver} has it")
