# SPDX-License-Identifier: Apache-2.0
"""What an operator's wish about a VIP writes, with a distributor that obeys or has obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, cast

import pytest

from anyport.daemon.operator import Operator
from anyport.daemon.wish import Wish
from anyport.errors import AnyportError, UsageError
from anyport.model import Definition, Distributing, Method
from anyport.registry.base import Put
from anyport.registry.keys import DefinitionKey, DistributingKey
from anyport.registry.memory import MemoryRegistry, MemoryStore
from anyport.registry.mirror import SETTLE_SECONDS, Mirror
from anyport.registry.values import encode

VIP = ip_address("10.0.0.100")
STORED = Definition(VIP, method=Method.ROUND_ROBIN)
TIMEOUT = 10.0
UNASKED = cast(Any, None)
"""The LAN: only who adds a VIP asks it."""


def with_operator(
    scenario: Callable[[MemoryRegistry, Operator], Awaitable[None]], settle: float = SETTLE_SECONDS
) -> None:
    """Of a VIP that is distributed as it is stored."""

    async def run() -> None:
        registry = MemoryRegistry()
        mirror = Mirror(registry, settle=settle, reader="a")
        await registry.write([Put(str(DefinitionKey(VIP)), encode(STORED))])
        await publish(registry, STORED)
        following = asyncio.ensure_future(mirror.run())
        await mirror.caught_up(registry.store.revision)
        async with asyncio.timeout(TIMEOUT):
            await scenario(registry, Operator(registry, mirror, UNASKED))
        following.cancel()
        await asyncio.wait({following})

    asyncio.run(run())


async def publish(registry: MemoryRegistry, definition: Definition) -> None:
    distributing = Distributing("a", 1, definition, 0)
    await registry.write([Put(str(DistributingKey("a", VIP)), encode(distributing))])


def test_a_change_that_changes_nothing_writes_nothing() -> None:
    async def scenario(registry: MemoryRegistry, operator: Operator) -> None:
        before = registry.store.revision
        assert await operator.change(VIP, Wish(method="round-robin", hosts="all")) is None
        assert registry.store.revision == before

    with_operator(scenario)


def test_a_change_is_waited_for() -> None:
    async def scenario(registry: MemoryRegistry, operator: Operator) -> None:
        written = registry.store.moved
        changing = asyncio.ensure_future(operator.change(VIP, Wish(method="hash")))
        await written.wait()
        assert registry.store.entries[str(DefinitionKey(VIP))].value == encode(Definition(VIP))
        assert not changing.done()
        await publish(registry, Definition(VIP))
        assert await changing is None

    with_operator(scenario)


def test_what_went_with_its_store_is_deleted_all_the_same() -> None:
    """Every host hears of it, though the store does not have it."""

    async def scenario(registry: MemoryRegistry, operator: Operator) -> None:
        others = Mirror(registry, settle=0.0, reader="b")
        following = asyncio.ensure_future(others.run())
        await others.caught_up(registry.store.revision)
        registry.store.lose()
        registry.store = MemoryStore(identity=2)
        registry.store.revision = 100
        await others.caught_up(100)
        with pytest.raises(AnyportError, match="is in force, but went with a store that is gone"):
            await operator.change(VIP, Wish(method="hash"))
        deleting = asyncio.ensure_future(operator.delete(VIP))
        await others.caught_up(102)
        assert others.cluster.definitions == {}
        deleting.cancel()
        following.cancel()
        await asyncio.wait({deleting, following})

    with_operator(scenario, settle=0.0)


def test_what_no_host_knows_is_not_deleted() -> None:
    async def scenario(registry: MemoryRegistry, operator: Operator) -> None:
        with pytest.raises(UsageError, match=r"does not exist; those that do: 10\.0\.0\.100"):
            await operator.delete(ip_address("10.0.0.101"))

    with_operator(scenario)
