# SPDX-License-Identifier: Apache-2.0
"""The layout of the registry: each kind of key as a value, and back.

    /anyport/v1/vips/<vip>                                  DefinitionKey
    /anyport/v1/drains/<h>                                  DrainKey
    /anyport/v1/hosts/<h>/self                              HostKey
    /anyport/v1/hosts/<h>/heartbeat                         HeartbeatKey
    /anyport/v1/hosts/<h>/listeners/<vip>/<proto>/<port>    ListenerEntryKey
    /anyport/v1/hosts/<h>/blocks/<vip>/<first>              ClaimKey
    /anyport/v1/hosts/<h>/candidates/<vip>                  CandidacyKey
    /anyport/v1/hosts/<h>/distributing/<vip>                DistributingKey
    /anyport/v1/hosts/<h>/connections/<vip>/<piece>         ConnectionsKey
    /anyport/v1/hosts/<h>/remaining                         RemainingKey
    /anyport/v1/hosts/<h>/voided/<vip>/<revision>           VoidKey

`str(key)` writes a key, `parse` reads one. Everything that a host says is
beneath `host_prefix` of its name, so that etcd's RBAC can confine it; what the
operator wishes, beneath VIPS and DRAINS (docs/adr/0015).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from anyport.decide.gathering import MOST_PIECES
from anyport.model import Protocol
from anyport.model.definition import Address

PREFIX = "/anyport/v1/"
VIPS = PREFIX + "vips/"
DRAINS = PREFIX + "drains/"
HOSTS = PREFIX + "hosts/"
OPERATORS = (VIPS, DRAINS)
"""Beneath these is what the operator says, through whichever host (registry.roles)."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")


def valid_name(name: str) -> bool:
    """Whether `name` may name a host: 1 to 63 of A-Z a-z 0-9 . _ - (no slash: it is in keys)."""
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=256)
def host_prefix(host: str) -> str:
    """Beneath it is everything that `host` says. Raises ValueError for an invalid name."""
    return f"{HOSTS}{_checked(host)}/"


def _checked(host: str) -> str:
    if not valid_name(host):
        raise ValueError(f"host name {host!r}: allowed are 1 to 63 of A-Z a-z 0-9 . _ -")
    return host


def prefix_end(prefix: bytes) -> bytes:
    """The first key that is beneath no `prefix` (etcd's range_end); prefixes are ASCII."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\0"


@dataclass(frozen=True, slots=True)
class DefinitionKey:
    vip: Address

    def __str__(self) -> str:
        return f"{VIPS}{self.vip}"


@dataclass(frozen=True, slots=True)
class DrainKey:
    host: str

    def __str__(self) -> str:
        return f"{DRAINS}{_checked(self.host)}"


@dataclass(frozen=True, slots=True)
class HostKey:
    host: str

    def __str__(self) -> str:
        return f"{host_prefix(self.host)}self"


@dataclass(frozen=True, slots=True)
class HeartbeatKey:
    host: str

    def __str__(self) -> str:
        return f"{host_prefix(self.host)}heartbeat"


@dataclass(frozen=True, slots=True)
class ListenerEntryKey:
    host: str
    vip: Address
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        return (
            f"{host_prefix(self.host)}listeners/{_text(self.vip)}/"
            f"{'udp' if self.protocol else 'tcp'}/{self.port}"
        )


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """`first`: the block's first port; its last one is in the value."""

    host: str
    vip: Address
    first: int

    def __str__(self) -> str:
        return f"{host_prefix(self.host)}blocks/{self.vip}/{self.first}"


@dataclass(frozen=True, slots=True)
class CandidacyKey:
    host: str
    vip: Address

    def __str__(self) -> str:
        return f"{host_prefix(self.host)}candidates/{self.vip}"


@dataclass(frozen=True, slots=True)
class DistributingKey:
    host: str
    vip: Address

    def __str__(self) -> str:
        return f"{host_prefix(self.host)}distributing/{self.vip}"


@dataclass(frozen=True, slots=True)
class ConnectionsKey:
    """`piece`: from 0 on; below MOST_PIECES."""

    host: str
    vip: Address
    piece: int

    def __str__(self) -> str:
        return f"{host_prefix(self.host)}connections/{self.vip}/{self.piece}"


@dataclass(frozen=True, slots=True)
class RemainingKey:
    host: str

    def __str__(self) -> str:
        return f"{host_prefix(self.host)}remaining"


@dataclass(frozen=True, slots=True)
class VoidKey:
    """`claim`: the create_revision of the claim that `host` declares void."""

    host: str
    vip: Address
    claim: int

    def __str__(self) -> str:
        return f"{host_prefix(self.host)}voided/{self.vip}/{self.claim}"


Key = (
    DefinitionKey
    | DrainKey
    | HostKey
    | HeartbeatKey
    | ListenerEntryKey
    | ClaimKey
    | CandidacyKey
    | DistributingKey
    | ConnectionsKey
    | RemainingKey
    | VoidKey
)


def parse(text: str) -> Key | None:
    """The key that `str` writes as `text`; None for any other text.

    Only the canonical form is taken: were `080` or `2001:DB8::1` a key, two
    keys could stand for one port or VIP.
    """
    try:
        key = _parse(text)
        return key if key is not None and str(key) == text else None
    except ValueError:
        return None


def _parse(text: str) -> Key | None:
    if text.startswith(VIPS):
        return DefinitionKey(_address(text[len(VIPS) :]))
    if text.startswith(DRAINS):
        return DrainKey(text[len(DRAINS) :])
    if not text.startswith(HOSTS):
        return None
    match text[len(HOSTS) :].split("/"):
        case [host, "listeners", vip, protocol, port]:
            return ListenerEntryKey(host, _address(vip), Protocol.parse(protocol), _port(port))
        case [host, "self"]:
            return HostKey(host)
        case [host, "heartbeat"]:
            return HeartbeatKey(host)
        case [host, "blocks", vip, first]:
            return ClaimKey(host, _address(vip), _port(first))
        case [host, "candidates", vip]:
            return CandidacyKey(host, _address(vip))
        case [host, "distributing", vip]:
            return DistributingKey(host, _address(vip))
        case [host, "connections", vip, piece] if int(piece) in range(MOST_PIECES):
            return ConnectionsKey(host, _address(vip), int(piece))
        case [host, "remaining"]:
            return RemainingKey(host)
        case [host, "voided", vip, claim]:
            return VoidKey(host, _address(vip), int(claim))
    return None


@lru_cache(maxsize=256)
def _address(text: str) -> Address:
    # A scope (fe80::1%eth0) means something on one host only.
    if "%" in text:
        raise ValueError(f"address {text!r}: a scope is not allowed")
    return ip_address(text)


_text = lru_cache(maxsize=256)(str)  # of an address: a hundred thousand listeners have few


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError(f"port {text!r}: allowed are 1 to 65535")
    return port
