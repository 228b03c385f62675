# SPDX-License-Identifier: Apache-2.0
"""What the daemon keeps of root's power, and what it does before it gives the rest up.

docs/security.md has the table; packaging/anyport.service grants no more.
"""

from __future__ import annotations

from pathlib import Path

from anyport.kernel import inner_maps, loader
from anyport.kernel.capabilities import Capability, keep_only

KEPT = frozenset(
    {
        Capability.NET_ADMIN,  # addresses on lo, routes, sysctls, network programs, SO_MARK
        Capability.NET_RAW,  # packet and raw sockets: ARP, neighbour discovery, announcements
        Capability.BPF,  # bpf(2), where unprivileged_bpf_disabled is set, as on Debian
        Capability.PERFMON,  # the socket iterators are tracing programs
    }
)


def reduce(pins: Path) -> None:
    """For the rest of the process's life; call it before there are threads. Raises KernelError."""
    loader.prepare_pins(pins)  # it may have to mount: CAP_SYS_ADMIN
    inner_maps.hold(pins)
    keep_only(KEPT)
