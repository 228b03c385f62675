# SPDX-License-Identifier: Apache-2.0
"""The values of the registry: JSON objects with a version, `{"v":1,...}`.

What the key says already (VIP, host, port) is not repeated in the value.
Fields that this version does not know are skipped, so that a later one may
add some; a change that an earlier one must not misread gets a higher `v`.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from anyport.decide.definitions import address_fault
from anyport.decide.gathering import MOST_PIECES, MOST_ROW_BYTES
from anyport.model import (
    ANY,
    Candidacy,
    Claim,
    ConnectionsPiece,
    Definition,
    Distributing,
    Drain,
    Heartbeat,
    Host,
    HostState,
    Listener,
    Method,
    PathWish,
    PortBlock,
    Remaining,
    Void,
)
from anyport.model.definition import (
    MAX_DEFINITION_SIZE,
    MAX_UDP_IDLE_SECONDS,
    UDP_IDLE_SECONDS,
    Address,
    parse_ports,
)
from anyport.model.port_block import MAX_BLOCK_PORTS
from anyport.registry.keys import (
    CandidacyKey,
    ClaimKey,
    ConnectionsKey,
    DefinitionKey,
    DistributingKey,
    DrainKey,
    HeartbeatKey,
    HostKey,
    Key,
    ListenerEntryKey,
    RemainingKey,
    VoidKey,
    valid_name,
)

VERSION = 1
MAX_SIZE = 65536
"""Bytes of one value; longer ones are refused both ways (one host must not fill the others)."""

Noun = (
    Definition
    | Drain
    | Host
    | Heartbeat
    | Listener
    | Claim
    | Candidacy
    | Distributing
    | ConnectionsPiece
    | Remaining
    | Void
)

OTHER_STORES_REVISIONS = 2**48
"""Above what etcd counts in a century."""

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Time = Annotated[float, msgspec.Meta(ge=0, le=253402300799)]  # till the end of the year 9999
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_BROADCAST = ip_address("255.255.255.255")
_Word = Annotated[str, msgspec.Meta(max_length=256)]
_Mac = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]


class _Versioned(msgspec.Struct, frozen=True):
    v: int


class _Definition(_Versioned, frozen=True):
    ports: str = "any"
    method: Method = Method.HASH
    hosts: list[_Word] | None = None
    udp_idle: Annotated[int, msgspec.Meta(ge=1, le=MAX_UDP_IDLE_SECONDS)] | UnsetType = UNSET


class _Host(_Versioned, frozen=True):
    address: _Word
    weight: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 100
    state: HostState = HostState.ACTIVE
    since: _Time = 0.0
    instance: _Word = ""
    address6: _Word | UnsetType = UNSET
    mac: _Mac | UnsetType = UNSET
    path: PathWish | UnsetType = UNSET


class _Heartbeat(_Versioned, frozen=True):
    ttl: Annotated[int, msgspec.Meta(ge=1, le=300)]


class _Drain(_Versioned, frozen=True):
    since: _Time = 0.0


class _Listener(_Versioned, frozen=True):
    specific: bool = True
    user: _Word = ""
    process: _Word = ""


class _Claim(_Versioned, frozen=True):
    last: _Port


class _Candidacy(_Versioned, frozen=True):
    rank: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class _Distributing(_Versioned, frozen=True):
    term: _Count
    definition: _Definition
    programmed_revision: _Count
    refused: tuple[_Count, ...] = ()
    limits: dict[_Word, _Count] | UnsetType = UNSET
    gathering: bool | UnsetType = UNSET


class _Connections(_Versioned, frozen=True):
    term: _Count
    pieces: Annotated[int, msgspec.Meta(ge=1, le=MOST_PIECES)]
    rows: Annotated[bytes, msgspec.Meta(max_length=MOST_ROW_BYTES)]


class _Remaining(_Versioned, frozen=True):
    connections: _Count


_V = TypeVar("_V", bound=_Versioned)


def encode(noun: Noun) -> bytes:
    """The value to store for `noun`. Raises ValueError if it is longer than MAX_SIZE."""
    value = msgspec.json.encode(_mirror(noun))
    _check_size(value)
    return value


def decode(key: Key, value: bytes, create_revision: int) -> Noun:
    """The noun that `key` and `value` say; `create_revision` is the registry's for that key.

    Raises ValueError with one line naming what is wrong: malformed, of a newer
    version, longer than MAX_SIZE, a content that does not fit the key, a
    definition that could never be in force, or a term that no tenure can have.
    """
    _check_size(value)
    match key:
        case ListenerEntryKey(host, vip, protocol, port):
            said = _read(_LISTENER, value)
            return Listener(vip, protocol, port, host, said.specific, said.user, said.process)
        case HostKey(host):
            return _host(host, _read(_HOST, value))
        case HeartbeatKey(host):
            return Heartbeat(host, _read(_HEARTBEAT, value).ttl)
        case DefinitionKey(vip):
            return _definition(vip, _read(_DEFINITION, value))
        case ClaimKey(host, vip, first):
            return _claim(host, vip, first, _read(_CLAIM, value), create_revision)
        case CandidacyKey(host, vip):
            return Candidacy(vip, host, _read(_CANDIDACY, value).rank, create_revision)
        case DistributingKey(host, vip):
            told = _read(_DISTRIBUTING, value)
            _check_term(told.term, create_revision)
            definition = _definition(vip, told.definition)
            return Distributing(
                host,
                told.term,
                definition,
                told.programmed_revision,
                frozenset(told.refused),
                frozenset() if told.limits is UNSET else frozenset(told.limits.items()),
                told.gathering is True,
            )
        case ConnectionsKey(host):
            piece = _read(_CONNECTIONS, value)
            return ConnectionsPiece(host, piece.term, piece.pieces, piece.rows)
        case DrainKey(host):
            return Drain(host, _read(_DRAIN, value).since, create_revision)
        case RemainingKey(host):
            return Remaining(host, _read(_REMAINING, value).connections)
        case VoidKey(host, vip, claim):
            _read(_VERSIONED, value)
            return Void(vip, claim, host)


_VERSIONED = msgspec.json.Decoder(_Versioned)
_DEFINITION = msgspec.json.Decoder(_Definition)
_HEARTBEAT = msgspec.json.Decoder(_Heartbeat)
_HOST = msgspec.json.Decoder(_Host)
_LISTENER = msgspec.json.Decoder(_Listener)
_CLAIM = msgspec.json.Decoder(_Claim)
_CANDIDACY = msgspec.json.Decoder(_Candidacy)
_DISTRIBUTING = msgspec.json.Decoder(_Distributing)
_DRAIN = msgspec.json.Decoder(_Drain)
_CONNECTIONS = msgspec.json.Decoder(_Connections)
_REMAINING = msgspec.json.Decoder(_Remaining)


def _read(decoder: msgspec.json.Decoder[_V], value: bytes) -> _V:
    # The version first: a newer value may well have another shape too, and its
    # version is then what the reader must hear of. msgspec's errors are ValueErrors.
    try:
        version = _VERSIONED.decode(value).v
        if version != VERSION:
            raise ValueError(f"version {version}: this anyport reads version {VERSION}")
        return decoder.decode(value)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def _check_size(value: bytes) -> None:
    if len(value) > MAX_SIZE:
        raise ValueError(f"{len(value)} bytes: allowed are {MAX_SIZE}")


def _mirror(noun: Noun) -> _Versioned:
    match noun:
        case Definition():
            return _definition_mirror(noun)
        case Host():
            return _host_mirror(noun)
        case Heartbeat():
            return _Heartbeat(VERSION, noun.ttl)
        case Listener():
            return _Listener(VERSION, noun.specific, _text(noun.user), _text(noun.process))
        case Claim(block):
            return _Claim(VERSION, block.last)
        case Candidacy():
            return _Candidacy(VERSION, noun.rank)
        case Distributing():
            return _Distributing(
                VERSION,
                noun.term,
                _definition_mirror(noun.definition),
                noun.programmed_revision,
                tuple(sorted(noun.refused)),
                dict(sorted(noun.limits)) or UNSET,
                noun.gathering or UNSET,
            )
        case ConnectionsPiece():
            return _Connections(VERSION, noun.term, noun.pieces, noun.rows)
        case Drain():
            return _Drain(VERSION, noun.since)
        case Remaining():
            return _Remaining(VERSION, noun.connections)
        case Void():
            return _Versioned(VERSION)


def _definition_mirror(definition: Definition) -> _Definition:
    hosts = None if definition.hosts is None else sorted(definition.hosts)
    udp_idle = UNSET if definition.udp_idle == UDP_IDLE_SECONDS else definition.udp_idle
    return _Definition(VERSION, str(definition.ports), definition.method, hosts, udp_idle)


def _text(text: str) -> str:
    # A process may name itself with any bytes; JSON takes no lone surrogates.
    return text.encode("utf-8", "replace").decode("utf-8")


def _definition(vip: Address, said: _Definition) -> Definition:
    if (fault := address_fault(vip)) is not None:
        raise ValueError(fault)
    for name in said.hosts or ():
        if not valid_name(name):
            raise ValueError(f"host name {name!r}: not valid")
    ports = ANY if said.ports == "any" else parse_ports(said.ports)
    hosts = None if said.hosts is None else frozenset(said.hosts)
    udp_idle = UDP_IDLE_SECONDS if said.udp_idle is UNSET else said.udp_idle
    definition = Definition(vip, ports, said.method, hosts, udp_idle)
    # Else the distributor could not publish it: what it says is longer.
    if definition.size > MAX_DEFINITION_SIZE:
        raise ValueError(
            f"ports and hosts of {definition.size} characters: allowed are {MAX_DEFINITION_SIZE}"
        )
    return definition


def _host_mirror(host: Host) -> _Host:
    return _Host(
        VERSION,
        str(host.address),
        host.weight,
        host.state,
        host.since,
        host.instance,
        UNSET if host.address6 is None else str(host.address6),
        host.mac.hex(":") if host.mac else UNSET,
        UNSET if host.path is PathWish.AUTO else host.path,
    )


def _host(name: str, said: _Host) -> Host:
    address = ip_address(said.address)
    address6 = None if said.address6 is UNSET else IPv6Address(said.address6)
    mac = b"" if said.mac is UNSET else bytes.fromhex(said.mac.replace(":", ""))
    host = Host(
        name,
        address,
        said.weight,
        said.state,
        said.since,
        said.instance,
        address6,
        mac,
        PathWish.AUTO if said.path is UNSET else said.path,
    )
    for one in host.addresses:
        if _is_nobodys(one):
            raise ValueError(f"address {one}: not one of a host")
    return host


def _is_nobodys(address: Address) -> bool:
    # A loopback address is every host's own; a scope (fe80::1%eth0) means something on one only.
    return (
        address.is_unspecified
        or address.is_multicast
        or address.is_loopback
        or address == _BROADCAST
        or (isinstance(address, IPv6Address) and address.scope_id is not None)
    )


def _check_term(term: int, create_revision: int) -> None:
    # A tenure's term is the revision of its election or just above the term before
    # (decide.election.next_term); in a store that took the place of another it may be
    # the other's. Whichever passes, the next publication, later, may be above it.
    if create_revision and term > create_revision + OTHER_STORES_REVISIONS:
        raise ValueError(f"term {term}: no registry has had so many revisions")


def _claim(host: str, vip: Address, first: int, said: _Claim, create_revision: int) -> Claim:
    if said.last < first:
        raise ValueError(f"last {said.last}: before the first port {first}")
    if said.last - first >= MAX_BLOCK_PORTS:
        raise ValueError(f"{said.last - first + 1} ports: allowed are {MAX_BLOCK_PORTS}")
    return Claim(PortBlock(vip, first, said.last), host, create_revision)
