# SPDX-License-Identifier: Apache-2.0
"""A member's lease, while the event loop that it shares with everything else stands still."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from anyport.errors import RegistryError, RegistryUnavailable
from anyport.model import Heartbeat, Host
from anyport.registry.base import Put
from anyport.registry.etcd import EtcdRegistry
from anyport.registry.heartbeats import SILENT_TTLS
from anyport.registry.keep_alive import LOOP_TTLS
from anyport.registry.keys import HeartbeatKey, HostKey, Key
from anyport.registry.membership import Membership
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher
from anyport.registry.values import Noun, encode
from tests.contract.conftest import TIMEOUT
from tests.contract.etcd_server import EtcdServer, free_ports

pytestmark = pytest.mark.anyio

TTL = 1
OWN, HEARTBEAT = str(HostKey("a")), str(HeartbeatKey("a"))


@pytest.fixture
async def registry(server: EtcdServer) -> AsyncIterator[EtcdRegistry]:
    """Its first endpoint is dead."""
    (dead,) = free_ports(1)
    registry = EtcdRegistry([f"127.0.0.1:{dead}", server.endpoint])
    yield registry
    await registry.close()


@pytest.fixture
def full_server(tmp_path: Path) -> Iterator[EtcdServer]:
    """Soon."""
    server = EtcdServer(tmp_path, options=["--quota-backend-bytes=2000000"])
    server.start()
    yield server
    server.kill()


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
    async with asyncio.timeout(TIMEOUT):
        while [e.lease for e in (await registry.list(HEARTBEAT)).entries] != [member.lease]:
            pass


async def test_a_heartbeat_goes_on_while_the_loop_stands_still(
    server: EtcdServer, registry: EtcdRegistry, member: Membership
) -> None:
    [first] = (await registry.list(HEARTBEAT)).entries
    said = member.contact
    assert stand_still(lambda: member.contact > said, (LOOP_TTLS - 0.5) * TTL)
    [second] = (await registry.list(HEARTBEAT)).entries
    assert second.mod_revision > first.mod_revision


async def test_a_lease_that_others_keep_alive_makes_no_heartbeat(
    registry: EtcdRegistry, tmp_path: Path
) -> None:
    """Of two hosts, one is gone; the other's mirror shows it until its heartbeats are missed."""
    mirror = Mirror(registry, reader="a")
    publisher = Publisher(registry)
    member = Membership(registry, publisher, tmp_path, "a", TTL)
    await member.join(lambda instance: Host("a", ip_address("192.0.2.1"), instance=instance))
    lease = await registry.grant(TTL)
    dead: dict[Key, Noun] = {
        HostKey("b"): Host("b", ip_address("192.0.2.2")),
        HeartbeatKey("b"): Heartbeat("b", TTL),
    }
    await registry.write([Put(str(key), encode(noun), lease) for key, noun in dead.items()])
    running = asyncio.gather(member.run(), publisher.run(), mirror.run())
    try:
        async with asyncio.timeout(TIMEOUT):
            while not mirror.silent:
                assert await registry.keep_alive(lease) > 0
                assert not mirror.listed or set(mirror.cluster.hosts) == {"a", "b"}
                await asyncio.sleep(TTL / 4)
        assert set(mirror.silent) == {"b"}
        assert set(mirror.cluster.hosts) == {"a"}
        assert len((await registry.list(str(HostKey("b")))).entries) == 1
    finally:
        running.cancel()
        await asyncio.wait({running})
        member.close()


async def test_an_etcd_that_takes_no_writes_makes_nobody_silent(
    tmp_path: Path, full_server: EtcdServer
) -> None:
    """Its quota is used up: leases are kept, so whoever lives has all that goes with it; and
    nobody's right to hand out ports lasts on."""
    registry = EtcdRegistry([full_server.endpoint])
    mirror, publisher = Mirror(registry, reader="a"), Publisher(registry)
    member = Membership(registry, publisher, tmp_path, "a", TTL)
    await member.join(lambda instance: Host("a", ip_address("192.0.2.1"), instance=instance))
    passing = await registry.grant((SILENT_TTLS + 2) * TTL)
    await registry.write([Put("/passing", b"", passing)])
    running = asyncio.gather(member.run(), publisher.run(), mirror.run())
    try:
        async with asyncio.timeout(TIMEOUT):
            await use_up(registry)
            said = member.contact
            while (await registry.list("/passing")).entries:
                pass
        assert (member.contact, set(mirror.cluster.hosts)) == (said, {"a"})
        [entry] = (await registry.list(OWN)).entries
        assert entry.lease == member.lease
    finally:
        running.cancel()
        await asyncio.wait({running})
        member.close()
        await registry.close()


async def use_up(registry: EtcdRegistry) -> None:
    """etcd refuses what is too large, and a moment after everything."""
    for size in (1 << 20, 1):
        while await is_written(registry, size):
            pass


async def is_written(registry: EtcdRegistry, size: int) -> bool:
    try:
        await registry.write([Put("/any", bytes(size))])
    except RegistryError:
        return False
    return True


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


async def test_others_silence_is_in_doubt_while_the_registry_answers_nobody(
    server: EtcdServer, registry: EtcdRegistry, member: Membership
) -> None:
    """And for as long after as they need to say again what ended with their leases."""
    lease = member.lease
    await until(lambda: not member.is_in_doubt())
    server.freeze()
    await until(member.is_in_doubt)
    while time.clock_gettime(time.CLOCK_BOOTTIME) - member.contact < 2 * TTL:
        assert member.is_in_doubt()
        await asyncio.sleep(0.05)
    server.thaw()
    await until(lambda: member.lease != lease)
    assert member.is_in_doubt()
    assert await lease_of_its_key(registry) == member.lease
    await until(lambda: not member.is_in_doubt())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while True:
            if holds():
                return
            await asyncio.sleep(0.05)
