# SPDX-License-Identifier: Apache-2.0
"""The configuration file of one host (TOML), checked whole before anything is touched."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Literal

import msgspec

from anyport.errors import ConfigError
from anyport.model import Host, PathWish
from anyport.model.definition import Address
from anyport.model.port_block import MAX_BLOCK_PORTS

DEFAULT_PATH = Path("/etc/anyport/anyport.toml")
_SOCKET_PATH = 107  # unix(7): sun_path has 108 bytes, one of them a zero
_DAY = 86400.0
HOOKS = ("auto", "xdp", "tc")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class HostConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`address` is where the distributor sends this host's packets; `weight` is its share.

    `address6`: the same for IPv6 packets, beside an IPv4 `address`. A host
    takes part in the VIPs of the families that it has an address of. `path`:
    how distributors send packets here, whatever their routes say.
    """

    address: str
    interface: str
    name: str = ""
    weight: int = 100
    address6: str = ""
    path: PathWish = PathWish.AUTO

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(ip_address(text) for text in (self.address, self.address6) if text)

    def described(self) -> Host:
        address, *others = self.addresses
        address6 = next((a for a in others if isinstance(a, IPv6Address)), None)
        return Host(self.name, address, self.weight, address6=address6, path=self.path)

    @property
    def versions(self) -> frozenset[int]:
        """IP versions, 4 or 6 or both."""
        return frozenset(address.version for address in self.addresses)


class RegistryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No `endpoints`: the daemon starts an etcd of its own, with its data in `data`."""

    endpoints: tuple[str, ...] = ()
    ca: str = ""
    cert: str = ""
    key: str = ""
    data: str = "/var/lib/anyport/etcd"
    ttl: int = 5


class DistributorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The candidate of lowest `rank` is elected.

    `candidate` "auto": for the VIPs that are on-link at the LAN interface, as
    only there can their packets be taken. `hook`: where packets are met. `xdp`
    or `tc`; `auto` takes XDP where the interface's driver has it and loses
    nothing by it (decide/hook.py).
    """

    candidate: bool | Literal["auto"] = "auto"
    rank: int = 100
    hook: str = "auto"


class TablesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    connections: int = 262144


class BlocksConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Port blocks (R7): sizes in ports, `rest` and `quarantine` in seconds.

    A dead host is known to be dead when its lease, `registry.ttl`, has run out;
    its blocks are another's after `quarantine` more. So it must be much longer.
    """

    size: int = 128
    largest: int = 1024
    low_water: int = 32
    first: int = 32768
    last: int = 60999
    rest: float = 60.0
    quarantine: float = 600.0


class DaemonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Places that one machine must share out if it runs several hosts (the lab does).

    `cgroup` empty: the root of the cgroup2 mount.
    """

    pins: str = "/sys/fs/bpf/anyport"
    state: str = "/var/lib/anyport"
    socket: str = "/run/anyport/anyport.sock"
    cgroup: str = ""
    log_level: str = "info"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: HostConfig
    registry: RegistryConfig = RegistryConfig()
    distributor: DistributorConfig = DistributorConfig()
    tables: TablesConfig = TablesConfig()
    blocks: BlocksConfig = BlocksConfig()
    daemon: DaemonConfig = DaemonConfig()


def load(path: Path) -> Config:
    """The checked configuration. Raises ConfigError: one line that names file, key and remedy."""
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=Config)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name another with --config") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {readable(str(error))}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    if not config.host.name:
        host = msgspec.structs.replace(config.host, name=socket.gethostname().split(".")[0])
        config = msgspec.structs.replace(config, host=host)
    for complaint in _complaints(config):
        raise ConfigError(f"{path}: {complaint}")
    return config


def readable(message: str) -> str:
    """msgspec says `Expected `int`, got `str` - at `$.host.weight``: put the key in front."""
    text, at, where = message.partition(" - at `$.")
    if at:
        return f"{where.rstrip('`')}: {text[0].lower()}{text[1:]}"
    return message.removesuffix(" - at `$`")


def _complaints(config: Config) -> list[str]:
    """What the types do not say, in the order of the file."""
    host, registry, blocks = config.host, config.registry, config.blocks
    rules = [
        (
            _NAME.fullmatch(host.name) is not None,
            f"host.name {host.name!r}: allowed are up to 63 letters, digits, `.`, `_` and `-`",
        ),
        (
            _is_unicast(host.address, (4, 6)),
            f"host.address {host.address!r}: an address of this host is wanted, as 192.0.2.1",
        ),
        (
            not host.address6 or _is_unicast(host.address6, (6,)),
            f"host.address6 {host.address6!r}: an IPv6 address of this host is wanted",
        ),
        (
            not host.address6 or not _is_unicast(host.address, (6,)),
            f"host.address6 {host.address6!r}: host.address is an IPv6 address already",
        ),
        (0 <= host.weight <= 10000, f"host.weight {host.weight}: allowed are 0-10000"),
        (host.interface != "", "host.interface: the name of the LAN interface is wanted"),
        (
            bool(registry.cert) == bool(registry.key),
            "registry.cert and registry.key go together: give both or neither",
        ),
        (
            not registry.cert or registry.ca != "",
            "registry.cert wants registry.ca: client certificates need TLS",
        ),
        (2 <= registry.ttl <= 300, f"registry.ttl {registry.ttl}: allowed are 2-300 (seconds)"),
        (
            0 <= config.distributor.rank <= 10000,
            f"distributor.rank {config.distributor.rank}: allowed are 0-10000",
        ),
        (
            config.distributor.hook in HOOKS,
            f"distributor.hook {config.distributor.hook!r}: allowed are {', '.join(HOOKS)}",
        ),
        (
            1024 <= config.tables.connections <= 1 << 26,
            f"tables.connections {config.tables.connections}: allowed are 1024-{1 << 26}",
        ),
        (
            1 <= blocks.size <= blocks.largest <= MAX_BLOCK_PORTS,
            f"blocks.size {blocks.size}, blocks.largest {blocks.largest}: "
            f"allowed are 1 <= size <= largest <= {MAX_BLOCK_PORTS}",
        ),
        (
            1 <= blocks.low_water <= blocks.size,
            f"blocks.low_water {blocks.low_water}: allowed are 1 to blocks.size",
        ),
        (
            1024 <= blocks.first <= blocks.last <= 65535,
            f"blocks.first {blocks.first}, blocks.last {blocks.last}: "
            "allowed are 1024 <= first <= last <= 65535",
        ),
        (0 <= blocks.rest <= _DAY, f"blocks.rest {blocks.rest}: allowed are 0-{_DAY:.0f} (s)"),
        (
            10 <= blocks.quarantine <= 7 * _DAY,
            f"blocks.quarantine {blocks.quarantine}: allowed are 10-{7 * _DAY:.0f} (s)",
        ),
        (
            registry.ttl * 4 < blocks.quarantine,
            f"registry.ttl {registry.ttl}: less than a quarter of blocks.quarantine "
            f"({blocks.quarantine:g}) is wanted",
        ),
        (
            len(os.fsencode(config.daemon.socket)) <= _SOCKET_PATH,
            f"daemon.socket {config.daemon.socket!r}: longer than {_SOCKET_PATH} bytes",
        ),
        (
            config.daemon.log_level in ("debug", "info", "warning", "error"),
            f"daemon.log_level {config.daemon.log_level!r}: "
            "allowed are debug, info, warning, error",
        ),
    ]
    complaints = [complaint for holds, complaint in rules if not holds]
    return complaints + [
        f"registry.{name} {value!r}: no such file"
        for name in ("ca", "cert", "key")
        if (value := getattr(registry, name)) and not Path(value).is_file()
    ]


def _is_unicast(text: str, versions: Collection[int]) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    # An interface is named beside it: a scope (fe80::1%eth0) would say it twice.
    return (
        address.version in versions
        and "%" not in text
        and not (address.is_unspecified or address.is_multicast)
    )
