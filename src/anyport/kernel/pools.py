# SPDX-License-Identifier: Apache-2.0
"""The map `pools`: the free block ports of each VIP and protocol (R7)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from anyport.kernel import abi, inner_maps
from anyport.kernel.libbpf import Map, MapType
from anyport.model import Protocol

_U32 = struct.Struct("=I")


class Pools:
    """Queues, made when a row has its first port; the kernel pops, nobody else but `ports`."""

    def __init__(self, outer: Map) -> None:
        self._outer = outer
        self._inner: dict[bytes, Map] = {}

    def fill(self, index: int, protocol: Protocol, ports: Iterable[int]) -> None:
        """Appends free ports. Each must be in an own block and in no pool yet."""
        pool = self._find(index, protocol) or self._create(index, protocol)
        for port in ports:
            pool.push(_U32.pack(port))

    def ports(self, index: int, protocol: Protocol) -> list[int]:
        """The free ports, by turning the queue once.

        A port is out of the queue for a moment: a bind at that instant, to a
        pool of one, finds it empty; and what is handed out meanwhile may be in
        the answer. For a start; not for a loop.
        """
        pool = self._find(index, protocol)
        found: dict[int, None] = {}
        while pool is not None and (value := pool.pop()) is not None:
            pool.push(value)
            (port,) = _U32.unpack(value)
            if port in found:  # once around
                break
            found[port] = None
        return list(found)

    def drop(self, index: int) -> None:
        """The row's VIP is gone, and with it what was free."""
        for protocol in Protocol:
            key = _key(index, protocol)
            self._outer.delete(key)
            if key in self._inner:
                self._inner.pop(key).close()

    def close(self) -> None:
        for pool in self._inner.values():
            pool.close()
        self._inner.clear()

    def _find(self, index: int, protocol: Protocol) -> Map | None:
        key = _key(index, protocol)
        if key not in self._inner:
            number = self._outer.lookup(key)  # the kernel gives the inner map's id
            if number is None:
                return None
            self._inner[key] = inner_maps.take(_U32.unpack(number)[0])
        return self._inner[key]

    def _create(self, index: int, protocol: Protocol) -> Map:
        pool = Map.create(MapType.QUEUE, "pool", 0, _U32.size, abi.PORTS)
        key = _key(index, protocol)
        self._outer.update(key, _U32.pack(pool.fd))
        self._inner[key] = pool
        return pool


def _key(index: int, protocol: Protocol) -> bytes:
    return _U32.pack(index * len(Protocol) + protocol)
