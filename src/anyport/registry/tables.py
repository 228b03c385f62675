# SPDX-License-Identifier: Apache-2.0
"""The mutable dictionaries behind the live views of a model.Cluster."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from anyport.decide.gathering import MOST_PIECES
from anyport.model import (
    Candidacy,
    Claim,
    Cluster,
    ConnectionsPiece,
    Definition,
    Distributing,
    Drain,
    Heartbeat,
    Host,
    HostState,
    Listener,
    PortKey,
    Remaining,
    Void,
)
from anyport.model.definition import Address
from anyport.registry.claim_table import ClaimTable
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
)
from anyport.registry.touched import Touched
from anyport.registry.values import Noun

_K = TypeVar("_K")
_N = TypeVar("_N")


MOST_LISTENERS = 262_144
"""Of one host: as many as two VIPs have ports for TCP and UDP. Whoever says more goes mad."""


MOST_PIECES_OF_A_HOST = 2 * MOST_PIECES
"""For all VIPs that gather at once: 8 MB in every daemon."""


class Tables:
    """`set` costs the same however many entries there are."""

    def __init__(self, most_listeners: int = MOST_LISTENERS) -> None:
        self._most_listeners = most_listeners
        self._listeners_of: Counter[str] = Counter()
        self._definitions: dict[Address, Definition] = {}
        self._said: dict[str, Host] = {}  # of itself, without the operator's wish
        self._drains: dict[str, Drain] = {}
        self._hosts: dict[str, Host] = {}
        self._listeners: dict[Address, dict[PortKey, dict[str, Listener]]] = {}
        self._claims = ClaimTable()
        self._candidacies: dict[tuple[Address, str], Candidacy] = {}
        self._distributing: dict[tuple[Address, str], Distributing] = {}
        self._remaining: dict[str, Remaining] = {}
        self._pieces: dict[tuple[Address, str], dict[int, ConnectionsPiece]] = {}

    def cluster(self, revision: int) -> Cluster:
        """Views of the tables: they show every later `set` too."""
        return Cluster(
            revision,
            MappingProxyType(self._definitions),
            MappingProxyType(self._hosts),
            MappingProxyType(self._listeners),
            MappingProxyType(self._claims.counting),
            MappingProxyType(self._candidacies),
            MappingProxyType(self._distributing),
            MappingProxyType(self._drains),
            MappingProxyType(self._remaining),
            MappingProxyType(self._claims.voided),
            MappingProxyType(self._claims.voids),
            MappingProxyType(self._claims.excess),
            MappingProxyType(self._pieces),
        )

    def has_room(self, key: Key) -> bool:
        """False for one listener, or piece, more than a host may say it has.

        Only for those: who owns a block or is elected must not depend on what a
        reader happened to see first (registry.limits).
        """
        if isinstance(key, ConnectionsKey):
            return key.piece in self._pieces.get((key.vip, key.host), {}) or (
                sum(len(p) for (_, host), p in self._pieces.items() if host == key.host)
                < MOST_PIECES_OF_A_HOST
            )
        if not isinstance(key, ListenerEntryKey):
            return True
        if self._listeners_of[key.host] < self._most_listeners:
            return True
        return key.host in self._listeners.get(key.vip, {}).get((key.protocol, key.port), {})

    def set(self, key: Key, noun: Noun | None, touched: Touched) -> None:
        """`noun` is what `key` says now, None: nothing. `touched` is told if that is new."""
        match key, noun:
            case ListenerEntryKey(), Listener() | None:
                self._set_listener(key, noun, touched)
            case HostKey(host), Host() | None:
                _set(self._said, host, noun)
                self._show_host(host, touched)
            case DrainKey(host), Drain() | None:
                _set(self._drains, host, noun)
                self._show_host(host, touched)
            case ConnectionsKey(host, vip, number), ConnectionsPiece() | None:
                pieces = self._pieces.setdefault((vip, host), {})
                if _set(pieces, number, noun):
                    touched.connections.add(vip)
                if not pieces:
                    del self._pieces[vip, host]
            case RemainingKey(host), Remaining() | None:
                _set(self._remaining, host, noun)  # nobody acts on it: it is looked up
            case HeartbeatKey(), Heartbeat() | None:
                pass  # registry.heartbeats counts them
            case DefinitionKey(vip), Definition() | None:
                if _set(self._definitions, vip, noun):
                    touched.definitions.add(vip)
            case ClaimKey(), Claim() | None:
                if self._claims.set_claim(key, noun):
                    touched.claims.add(key.vip)
            case VoidKey(), Void() | None:
                if self._claims.set_void(key, noun):
                    touched.claims.add(key.vip)
            case CandidacyKey(host, vip), Candidacy() | None:
                if _set(self._candidacies, (vip, host), noun):
                    touched.candidacies.add(vip)
            case DistributingKey(host, vip), Distributing() | None:
                if _set(self._distributing, (vip, host), noun):
                    touched.distributing.add(vip)
            case _:
                raise TypeError(f"{key!r} does not say {noun!r}")

    def skip(self, key: Key, noun: Noun | None, touched: Touched) -> None:
        """It says that, and counts not, as its host says too much."""
        self.set(key, None, touched)
        if isinstance(key, ClaimKey) and isinstance(noun, Claim):
            self._claims.skip(key, noun)

    def everything(self) -> Touched:
        """As if all there is had just appeared."""
        return Touched(
            definitions=set(self._definitions),
            hosts=set(self._hosts),
            ports={(vip, port) for vip, ports in self._listeners.items() for port in ports},
            claims={block.vip for _, block in (*self._claims.counting, *self._claims.voided)},
            candidacies={vip for vip, _ in self._candidacies},
            distributing={vip for vip, _ in self._distributing},
            connections={vip for vip, _ in self._pieces},
            first=True,
        )

    def _show_host(self, name: str, touched: Touched) -> None:
        """As it describes itself, but drained if the operator says so."""
        host = self._said.get(name)
        if host is not None and name in self._drains:
            host = replace(host, state=HostState.DRAINING)
        if _set(self._hosts, name, host):
            touched.hosts.add(name)

    def _set_listener(
        self, key: ListenerEntryKey, listener: Listener | None, touched: Touched
    ) -> None:
        port = (key.protocol, key.port)
        ports = self._listeners.setdefault(key.vip, {})
        hosts = ports.setdefault(port, {})
        self._listeners_of[key.host] += (listener is not None) - (key.host in hosts)
        if _set(hosts, key.host, listener):
            touched.ports.add((key.vip, port))
        if not hosts:  # no empty shells: a port is in the mapping while it has a listener
            del ports[port]
        if not ports:
            del self._listeners[key.vip]


def _set(table: dict[_K, _N], key: _K, noun: _N | None) -> bool:
    """Whether that changed the table."""
    old = table.get(key)
    if noun is None:
        table.pop(key, None)
    else:
        table[key] = noun
    return old != noun
