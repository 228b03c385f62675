# SPDX-License-Identifier: Apache-2.0
"""The rows of thousands of ports, as the API gives them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import JSONResponse

from anyport.client import Client
from anyport.daemon import port_rows, state
from anyport.daemon.api import Server, application
from anyport.daemon.rows import Rows
from anyport.model import Claim, Definition, Distributing, Host, Listener, PortBlock, Protocol
from anyport.registry.keys import (
    ClaimKey,
    DefinitionKey,
    DistributingKey,
    HostKey,
    ListenerEntryKey,
)
from anyport.registry.tables import Tables
from anyport.registry.touched import Touched

VIP = ip_address("10.0.0.100")
VIP6 = ip_address("2001:db8::100")
NOBODY = cast(Any, None)
PATIENCE = 30.0


class World:
    """Of two hosts, seen from one that does not distribute."""

    def __init__(self) -> None:
        self.tables = Tables()
        for number, name in enumerate(("b", "a")):
            self.set(HostKey(name), Host(name, ip_address(f"192.0.2.{number + 1}"), 100 + number))
        for vip in (VIP6, VIP):
            self.set(DefinitionKey(vip), Definition(vip))
            self.set(DistributingKey("a", vip), Distributing("a", 1, Definition(vip), 9))
        self.set(ClaimKey("b", VIP, 40000), Claim(PortBlock(VIP, 40000, 40063), "b", 5))
        self.cluster = self.tables.cluster(9)
        distributor = SimpleNamespace(offices={}, live_connections=tuple, slot=lambda name: None)
        agent = SimpleNamespace(host="c", hosted={})
        self.rows = Rows(self.cluster, cast(Any, agent), cast(Any, distributor))

    def listen(self, vip: Any, port: int, host: str, protocol: Protocol = Protocol.TCP) -> None:
        listener = Listener(vip, protocol, port, host, process="π")
        self.set(ListenerEntryKey(host, vip, protocol, port), listener)

    def set(self, key: Any, noun: Any) -> None:
        self.tables.set(key, noun, Touched())


@asynccontextmanager
async def served(rows: Rows, path: Path) -> AsyncIterator[Client]:
    app = application(rows, NOBODY, NOBODY, NOBODY, NOBODY, CollectorRegistry())
    serving = asyncio.create_task(Server(app, state.listen_unix(path)).run_until_stopped())
    try:
        yield Client(path)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1700])
def test_the_json_is_what_it_would_be_in_one_piece(count: int) -> None:
    rows = [{"port": port, "process": "π", "targets": [{"x": None}]} for port in range(count)]
    assert port_rows.encoded(iter(rows)) == JSONResponse(rows).body


def test_rows_are_by_vip_protocol_port_and_host(tmp_path: Path) -> None:
    world = World()
    for host in ("b", "a"):
        for protocol in (Protocol.UDP, Protocol.TCP):
            for vip in (VIP6, VIP):
                for port in (90, 80, 40001):
                    world.listen(vip, port, host, protocol)

    async def ask() -> tuple[Any, Any, Any]:
        async with served(world.rows, tmp_path / "socket") as client:
            ask = [
                asyncio.to_thread(client.get, "listeners"),
                asyncio.to_thread(client.get, "ports"),
                asyncio.to_thread(client.get, "ports", vip=str(VIP6)),
            ]
            listeners, ports, only = await asyncio.gather(*ask)
            return listeners, ports, only

    listeners, ports, only = asyncio.run(ask())
    places = [(vip, p, n) for vip in (VIP, VIP6) for p in ("tcp", "udp") for n in (80, 90, 40001)]
    assert [(r["vip"], r["protocol"], r["port"], r["host"]) for r in listeners] == [
        (str(vip), protocol, port, host) for vip, protocol, port in places for host in "ab"
    ]
    assert [(r["vip"], r["protocol"], r["port"]) for r in ports] == [
        (str(vip), protocol, port) for vip, protocol, port in places
    ]
    assert only == [row for row in ports if row["vip"] == str(VIP6)]
    both = [{"host": h, "weight": w, "connections": None} for h, w in (("a", 101), ("b", 100))]
    assert (ports[0]["route"], ports[0]["targets"]) == ("distributed", both)
    assert (ports[2]["route"], ports[2]["targets"]) == ("unique", both[1:])


def test_a_snapshot_stays_what_it_was() -> None:
    world = World()
    world.listen(VIP, 80, "a")
    ports, listeners = world.rows.ports(None), world.rows.listeners(None)
    world.listen(VIP, 80, "b")
    world.listen(VIP, 81, "a")
    assert [(r["port"], len(r["targets"])) for r in ports] == [(80, 1)]
    assert [r["port"] for r in listeners] == [80]


def test_the_event_loop_runs_while_rows_are_made(tmp_path: Path) -> None:
    """Making them waits here for the event loop."""
    world, loop_ran = World(), threading.Event()

    class Slow(Definition):
        def allows(self, host: str) -> bool:
            asked.set()
            return loop_ran.wait(PATIENCE)

    asked = threading.Event()
    world.set(DistributingKey("a", VIP), Distributing("a", 1, Slow(VIP), 9))
    world.listen(VIP, 80, "a")

    async def ask() -> Any:
        async with served(world.rows, tmp_path / "socket") as client:
            answer = asyncio.ensure_future(asyncio.to_thread(client.get, "ports"))
            assert await asyncio.to_thread(asked.wait, PATIENCE)
            loop_ran.set()
            return await answer

    assert [row["port"] for row in asyncio.run(ask())] == [80]
