# SPDX-License-Identifier: Apache-2.0
"""How packets get to each host, as rows of the distributor's maps."""

from __future__ import annotations

from collections.abc import Mapping

from anyport.decide.rows import NO_HOP, Hop, HostRow, Path
from anyport.model import Host
from anyport.model.definition import Address


def host_rows(hosts: Mapping[str, Host], here: str, interface_index: int) -> dict[str, HostRow]:
    """Of `hosts`, by name, for a distributor named `here` that sends out of the interface."""

    def hop(name: str, address: Address | None) -> Hop:
        if name == here:
            return Hop(address, Path.LOCAL)
        return Hop(address, Path.L2, interface_index) if address else NO_HOP

    return {
        name: HostRow(
            hop(name, host.address_for(4)), hop(name, host.address_for(6)), host.weight, host.mac
        )
        for name, host in hosts.items()
    }
