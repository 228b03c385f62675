# SPDX-License-Identifier: Apache-2.0
"""The packet program, attached where this host's LAN interface allows it."""

from __future__ import annotations

import logging
from pathlib import Path

from anyport.config import Config
from anyport.decide.hook import Hook, wanted_hook
from anyport.errors import KernelError
from anyport.kernel import ethtool, netlink
from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.netlink import Interface

log = logging.getLogger(__name__)


async def attach(
    config: Config, interface: Interface, hash_key: int
) -> tuple[DistributorKernel, Hook]:
    """Raises KernelError, also if XDP is configured and the driver has none."""
    hook = wanted_hook(
        config.distributor.hook,
        _driver(interface.name),
        await netlink.has_vlans(interface.index),
    )
    try:
        kernel = _attach(config, interface, hash_key, hook)
    except KernelError as error:
        if hook.name == "tc" or config.distributor.hook == "xdp":
            raise
        hook = Hook("tc", str(error))
        kernel = _attach(config, interface, hash_key, hook)
    log.info("interface %s: packets are met in %s: %s", interface.name, hook.name, hook.why)
    return kernel, hook


def _attach(config: Config, interface: Interface, hash_key: int, hook: Hook) -> DistributorKernel:
    return DistributorKernel.attach(
        interface.index,
        Path(config.daemon.pins),
        config.tables.connections,
        hash_key,
        in_xdp=hook.name == "xdp",
    )


def _driver(name: str) -> str:
    try:
        return ethtool.driver(name)
    except KernelError:
        return "unknown"
