# SPDX-License-Identifier: Apache-2.0
"""A member's lease, while the event loop that it shares with everything else stands still."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from anyport.errors import RegistryUnavailable
from anyport.model import Host
from anyport.registry.etcd import EtcdRegistry
from anyport.registry.keep_alive import LOOP_TTLS
from anyport.registry.keys import HostKey
from anyport.registry.membership import Membership
from anyport.registry.publisher import Publisher
from tests.contract.conftest import TIMEOUT
from tests.contract.etcd_server import EtcdServer, free_ports

pytestmark = pytest.mark.anyio

TTL = 1
OWN = str(HostKey("a"))


@pytest.fixture
async def registry(server: EtcdServer) -> AsyncIterator[EtcdRegistry]:
    """Its first endpoint is dead."""
    (dead,) = free_ports(1)
    registry = EtcdRegistry([f"127.0.0.1:{dead}", server.endpoint])
    yield registry
    await registry.close()


@pytest.fixture
async def member(registry: EtcdRegistry, tmp_path: Path) -> AsyncIterator[Membership]:
    publisher = Publisher(registry)
    member = Membership(registry, publisher, tmp_path, "a", TTL)
    await member.join(lambda instance: Host("a", ip_address("192.0.2.1"), instance=instance))
    running = asyncio.gather(member.run(), publisher.run())
    yield member
    running.cancel()
    await asyncio.wait({running})
    member.close()


def stand_still(holds: Callable[[], bool], seconds: float) -> bool:
    """As a long computation would: no task of this event loop runs. Whether it came to hold."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


async def lease_of_its_key(registry: EtcdRegistry) -> int:
    """Once it is there."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            for entry in (await registry.list(OWN)).entries:
                return entry.lease


async def test_a_lease_outlives_a_loop_that_stands_still(
    server: EtcdServer, member: Membership
) -> None:
    lease = member.lease
    assert not stand_still(lambda: OWN not in server.stored(), (LOOP_TTLS - 0.5) * TTL)
    assert member.lease == lease
    assert time.clock_gettime(time.CLOCK_BOOTTIME) - member.contact < TTL


async def test_a_lease_does_not_outlive_a_loop_that_never_comes_back(
    server: EtcdServer,
    registry: EtcdRegistry,
    member: Membership,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody could take over from it. When it does come back, it says everything again."""
    lease = member.lease
    with caplog.at_level(logging.ERROR):
        assert stand_still(lambda: OWN not in server.stored(), TIMEOUT)
    assert "the event loop has stood still" in caplog.text
    assert await lease_of_its_key(registry) == member.lease
    assert member.lease != lease


async def test_a_lease_that_somebody_revoked_is_replaced(
    registry: EtcdRegistry, member: Membership
) -> None:
    lost = member.lease
    await registry.revoke(lost)
    assert await lease_of_its_key(registry) == member.lease
    assert member.lease != lost


async def test_a_frozen_etcd_does_not_hold_the_end_up(
    server: EtcdServer, registry: EtcdRegistry
) -> None:
    """What waits for an answer is ended, and what would come after it."""
    lease = await registry.grant(TTL)
    renewer = registry.renewer()
    server.freeze()
    waiting = [asyncio.to_thread(renewer.keep_alive, lease, 10 * TIMEOUT) for _ in range(2)]
    asked = asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.wait({asked}, timeout=0.2)  # the second endpoint is asked, after the dead one
    renewer.close()
    async with asyncio.timeout(TIMEOUT):
        assert [type(answer) for answer in await asked] == [RegistryUnavailable] * 2
    server.thaw()
    with pytest.raises(RegistryUnavailable, match="closed"):
        renewer.keep_alive(lease, TIMEOUT)
