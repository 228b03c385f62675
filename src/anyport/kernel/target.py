# SPDX-License-Identifier: Apache-2.0
"""A target's half of the IPIP path: target.bpf.c, its attachments and its maps."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from anyport.kernel import abi, loader, traffic
from anyport.kernel.abi import TunnelCounter, TunnelRole
from anyport.kernel.clsact import Filter
from anyport.kernel.libbpf import Object
from anyport.model.definition import Address

_MAPS = ("tunnel_addresses", "tunnel_settings", "tunnel_counters")
_PROGRAMS = {"decapsulate": Filter.DECAPSULATE, "announce": Filter.ANNOUNCE}
LINKS = frozenset(_PROGRAMS)
_FIRST = bytes(4)


class TargetKernel:
    """One interface's two programs and what they know of the cluster.

    `decapsulate`, at the ingress, takes a distributor's outer header off what is for a VIP;
    `announce`, at the egress, makes the MSS that is told from a VIP fit the tunnelled path.
    Each write takes effect with the next packet. Raises KernelError.
    """

    def __init__(self, loaded: Object, interface_index: int, pins: Path) -> None:
        self.decapsulate = loaded.program("decapsulate")
        self.announce = loaded.program("announce")
        self._object = loaded
        self._interface_index = interface_index
        self._pins = pins
        self._maps = {name: loaded.map(name) for name in _MAPS}

    @classmethod
    def attach(cls, interface_index: int, pins: Path) -> TargetKernel:
        """Loads and attaches both programs, and adopts what is pinned at `pins`."""
        loader.prepare_pins(pins)
        self = cls.load(interface_index, pins)
        for name, filter in _PROGRAMS.items():
            program = self._object.program(name)
            traffic.attach(program, interface_index, filter, loader.link_pin(pins, name))
        return self

    @classmethod
    def load(cls, interface_index: int, pins: Path | None) -> TargetKernel:
        """Without attaching them; `pins` None: nothing outlives this process."""
        loaded = Object.open(loader.object_path("target"), pins=pins, pinned=_MAPS)
        try:
            return cls(loaded.load(), interface_index, pins or Path())
        except BaseException:
            loaded.close()
            raise

    def close(self) -> None:
        """Forgets the maps and the programs; pinned and attached, they go on without us."""
        self._object.close()

    def detach(self) -> None:
        """Nothing is decapsulated any more, and nothing is left behind."""
        for name, filter in _PROGRAMS.items():
            traffic.detach(self._interface_index, filter, loader.link_pin(self._pins, name))
        loader.unpin(self._pins, _MAPS)

    def attached(self) -> bool:
        """Whether the programs are still at the interface: another may have replaced that one."""
        return all(
            traffic.attached(self._interface_index, filter, loader.link_pin(self._pins, name))
            for name, filter in _PROGRAMS.items()
        )

    def set_vips(self, vips: Collection[Address]) -> None:
        """Those on this host's `lo`: only what is for one of them is decapsulated."""
        self._set_role(TunnelRole.VIP, vips)

    def set_addresses(self, addresses: Collection[Address]) -> None:
        """This host's own, to which distributors tunnel; outer packets to others are not ours."""
        self._set_role(TunnelRole.OWN, addresses)

    def set_distributors(self, distributors: Collection[Address]) -> None:
        """The addresses of every other host that may distribute a VIP, of either family."""
        self._set_role(TunnelRole.DISTRIBUTOR, distributors)

    def set_overhead(self, overhead: int) -> None:
        """Bytes of the outer header on the way here: 20 of IPv4, 40 of IPv6; 0 without a tunnel."""
        self._maps["tunnel_settings"].update(_FIRST, bytes(abi.TunnelSettings(overhead)))

    def counters(self) -> dict[str, int]:
        """Packets by what was done to them, in lower case, since the maps were made."""
        counters = self._maps["tunnel_counters"]
        return {
            counter.name.lower(): sum(
                int.from_bytes(one, "little") for one in counters.lookup_percpu(_u32(counter))
            )
            for counter in TunnelCounter
        }

    def _roles(self) -> dict[bytes, int]:
        addresses = self._maps["tunnel_addresses"]
        return {key: int.from_bytes(value, "little") for key, value in addresses.items()}

    def _set_role(self, role: TunnelRole, addresses: Collection[Address]) -> None:
        """These have it, and no others; those that come first: none is without it meanwhile."""
        wanted = {abi.pack_address(address) for address in addresses}
        before = self._roles()
        for key in wanted:
            self._write(key, before.get(key, 0) | role)
        for key in before.keys() - wanted:
            self._write(key, before[key] & ~role)

    def _write(self, key: bytes, roles: int) -> None:
        if roles:
            self._maps["tunnel_addresses"].update(key, _u32(roles))
        else:
            self._maps["tunnel_addresses"].delete(key)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")
