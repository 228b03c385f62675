# SPDX-License-Identifier: Apache-2.0
"""Rows of nouns that may be 65,535 for one VIP, from snapshots that any thread may read.

To make them and their JSON takes half a second then. In a thread of its own,
and in slices, that holds neither the event loop up nor Python's global lock.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from anyport.decide import routes as route_rules
from anyport.model import Definition, Distributed, Host, Listener, PortKey, Route

Row = dict[str, Any]
Counts = Counter[tuple[Any, ...]]
"""(VIP, protocol, port, host) -> live connections."""

_SLICE = 500
"""Rows; the encoder keeps the global lock for so many at a time, some 2 ms."""


def encoded(rows: Iterable[Row]) -> bytes:
    """As starlette's JSONResponse would, but in slices."""
    left = iter(rows)
    slices = []
    while part := list(islice(left, _SLICE)):
        text = json.dumps(part, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        slices.append(text[1:-1].encode())
    return b"[" + b",".join(slices) + b"]"


def listeners(snapshot: Iterable[Listener]) -> Iterator[Row]:
    """By VIP, protocol, port and host."""
    for listener in sorted(snapshot, key=_place):
        yield {
            "vip": str(listener.vip),
            "protocol": listener.protocol.word,
            "port": listener.port,
            "host": listener.host,
            "specific": listener.specific,
            "user": listener.user,
            "process": listener.process,
        }


def _place(listener: Listener) -> tuple[Any, ...]:
    vip = listener.vip
    return vip.version, vip.packed, listener.protocol, listener.port, listener.host


@dataclass(frozen=True, slots=True)
class PortTable:
    """What the port table of one VIP follows from; nobody else changes it.

    `listeners` by port, then host. `counted` None: known only to another host.
    """

    definition: Definition
    listeners: Mapping[PortKey, Mapping[str, Listener]]
    hosts: Mapping[str, Host]
    blocks: route_rules.BlockIndex
    counted: Counts | None

    def rows(self) -> Iterator[Row]:
        """By protocol and port."""
        for key in sorted(self.listeners):
            protocol, port = key
            by_host, owner = self.listeners[key], self.blocks.owner(port)
            route = route_rules.route(key, by_host, self.definition, self.hosts, owner)
            if route is None:
                continue  # notified under a definition that holds no more
            yield {
                "vip": str(self.definition.vip),
                "protocol": protocol.word,
                "port": port,
                "route": "distributed" if isinstance(route, Distributed) else "unique",
                "targets": [
                    {"host": name, "weight": weight, "connections": self._connections(key, name)}
                    for name, weight in self._targets(route)
                ],
            }

    def _connections(self, key: PortKey, host: str) -> int | None:
        return None if self.counted is None else self.counted[self.definition.vip, *key, host]

    def _targets(self, route: Route) -> list[tuple[str, int]]:
        if isinstance(route, Distributed):
            return [(target.host, target.weight) for target in route.targets]
        host = self.hosts.get(route.host)
        return [(route.host, host.weight if host else 0)]
