# SPDX-License-Identifier: Apache-2.0
"""Whether this machine has what its configuration names; before anything is touched."""

from __future__ import annotations

import errno
from ipaddress import ip_address
from pathlib import Path

from anyport.config import Config
from anyport.errors import ConfigError, KernelError
from anyport.kernel import netlink
from anyport.kernel.features import is_cgroup2
from anyport.kernel.netlink import Interface


async def check(config: Config, path: Path) -> Interface:
    """The LAN interface. Raises ConfigError: one line that names file (`path`), key and remedy."""
    check_places(config, path)
    try:
        interface = await netlink.interface(config.host.interface)
    except KernelError as error:
        if error.errno != errno.ENODEV:
            raise
        raise ConfigError(f"{path}: host.interface: {error}") from None
    for name in ("address", "address6"):
        address = getattr(config.host, name)
        if address and ip_address(address) not in interface.addresses:
            has = ", ".join(sorted(map(str, interface.addresses))) or "none"
            raise ConfigError(
                f"{path}: host.{name} {address}: {interface.name} does not have it; it has {has}"
            )
    return interface


def check_places(config: Config, path: Path) -> None:
    """Whether what [daemon] names is there and is of the right kind. Raises ConfigError."""
    for complaint in _complaints(config):
        raise ConfigError(f"{path}: {complaint}")


def _complaints(config: Config) -> list[str]:
    daemon = config.daemon
    complaints = []
    if daemon.cgroup and not is_cgroup2(Path(daemon.cgroup)):
        complaints.append(
            f"daemon.cgroup {daemon.cgroup!r}: no cgroup2 directory; leave it out for all processes"
        )
    if Path(daemon.socket).is_dir():
        complaints.append(f"daemon.socket {daemon.socket!r}: a directory; name a file in it")
    if Path(daemon.pins).is_mount():
        complaints.append(
            f"daemon.pins {daemon.pins!r}: a mount point, so others' pins may be in it;"
            " name a directory of anyport's own beneath it"
        )
    return complaints
