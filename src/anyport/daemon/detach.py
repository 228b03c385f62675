# SPDX-License-Identifier: Apache-2.0
"""`anyport detach`: what a stopped daemon leaves running on this host, taken off.

It reads no map: those of another version are what it is most needed for.
"""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from anyport.config import Config, load
from anyport.daemon import machine, state
from anyport.errors import AnyportError, KernelError
from anyport.kernel import clsact, loader, netlink
from anyport.kernel.clsact import Filter
from anyport.kernel.sysctl import ReservedPorts, restore_sysctls
from anyport.model.definition import Address
from anyport.registry import embedded


def detach(path: Path) -> list[Address]:
    """The VIPs that were taken off `lo`. None of it there: success. Raises AnyportError."""
    config = load(path)
    if os.geteuid() != 0:
        raise AnyportError("anyport detach removes programs from the kernel: run it as root")
    machine.check_places(config, path)
    state.private_directory(Path(config.daemon.state))
    held = state.lock(Path(config.daemon.state))
    try:
        return asyncio.run(_detach(config))
    finally:
        os.close(held)


async def _detach(config: Config) -> list[Address]:
    """The VIPs go before the programs that refuse what must not be reached on them (R8)."""
    pins = Path(config.daemon.pins)
    await _detach_programs(config.host.interface, pins)
    vips = sorted(await netlink.vips_on_lo(), key=lambda vip: (vip.version, vip.packed))
    for vip in vips:
        await netlink.delete_vip(vip)
    loader.remove_pins(pins)
    ReservedPorts(state.reserved_ports(config)).reserve(())
    restore_sysctls(state.sysctls(config))
    if not config.registry.endpoints:
        await embedded.stop(Path(config.registry.data))
    return vips


async def _detach_programs(interface: str, pins: Path) -> None:
    """Those at the interface; TCX links go with their pins."""
    for program in ("distribute_xdp", "distribute"):
        loader.detach(loader.link_pin(pins, program))
    try:
        index = (await netlink.interface(interface)).index
    except KernelError as error:
        if error.errno != errno.ENODEV:
            raise
        return
    for filter in Filter:
        clsact.detach(index, filter)
