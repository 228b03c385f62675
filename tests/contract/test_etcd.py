# SPDX-License-Identifier: Apache-2.0
"""What only etcd does: it restarts, freezes, moves, and asks for certificates."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from anyport.errors import Compacted, ConfigError, RegistryUnavailable
from anyport.model import Definition, Host, Listener, Protocol
from anyport.registry import values
from anyport.registry.base import Put
from anyport.registry.channels import Channels
from anyport.registry.endpoints import Endpoint
from anyport.registry.etcd import EtcdRegistry
from anyport.registry.keys import DefinitionKey, ListenerEntryKey
from anyport.registry.membership import Membership
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher
from anyport.registry.watch_stream import WatchStream
from tests.contract.conftest import TIMEOUT, Watching
from tests.contract.etcd_server import EtcdServer, free_ports
from tests.support.certificates import Certificates

pytestmark = pytest.mark.anyio


@pytest.fixture
async def registry(server: EtcdServer) -> AsyncIterator[EtcdRegistry]:
    registry = EtcdRegistry([server.endpoint])
    yield registry
    await registry.close()


@pytest.fixture
async def hasty(server: EtcdServer) -> AsyncIterator[EtcdRegistry]:
    """A client that gives up early."""
    registry = EtcdRegistry([server.endpoint], timeout=0.5)
    yield registry
    await registry.close()


async def test_calls_and_a_watch_live_through_a_restart(
    server: EtcdServer, registry: EtcdRegistry
) -> None:
    after = await registry.write([Put("/a/0", b"")])
    watching = Watching(registry, "/a/", after)
    before = await registry.write([Put("/a/1", b"")])
    assert (await watching.next()).revision == before
    server.kill()
    server.start()
    revisions = [await registry.write([Put(f"/a/{n}", b"")]) for n in range(2, 20)]
    batches = await watching.until(revisions[-1])
    keys = [change.key for batch in batches for change in batch.changes]
    assert keys == [f"/a/{n}" for n in range(2, 20)]
    await watching.stop()


async def test_a_watch_brings_what_was_written_while_it_was_away(
    server: EtcdServer, registry: EtcdRegistry
) -> None:
    """Its own connection is cut at a random point of a stream of writes, ten times."""
    watching = Watching(registry, "/a/", (await registry.list("/a/")).revision)
    keys = []
    for restart in range(3):
        keys += [f"/a/{restart}-{number:03}" for number in range(100)]
        writes = [registry.write([Put(key, b"")]) for key in keys[-100:]]
        done = asyncio.gather(*writes)
        await asyncio.wait({done}, timeout=0.01)
        server.kill()
        server.start()
        last = max(await done)
    batches = await watching.until(last)
    seen = [change.key for batch in batches for change in batch.changes]
    assert sorted(set(seen)) == keys
    revisions = [batch.revision for batch in batches]
    assert revisions == sorted(set(revisions))
    await watching.stop()


async def test_an_emptied_store_is_not_taken_for_the_old_one(
    server: EtcdServer, registry: EtcdRegistry
) -> None:
    revision = max([await registry.write([Put("/a/1", b"")]) for _ in range(20)])
    watching = Watching(registry, "/a/", revision - 1)
    assert (await watching.next()).revision == revision
    server.kill()
    shutil.rmtree(server.directory / "data")
    server.start()
    with pytest.raises(Compacted):
        await watching.next()
    await watching.stop()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[EtcdServer]:
    """Another store."""
    (tmp_path / "fresh").mkdir()
    fresh = EtcdServer(tmp_path / "fresh")
    fresh.start()
    yield fresh
    fresh.kill()


async def drive_past(server: EtcdServer, revision: int) -> None:
    """By a key that is nobody's."""
    registry = EtcdRegistry([server.endpoint])
    while await registry.write([Put("nobody's", b"")]) <= revision:
        pass
    await registry.close()


async def test_an_emptied_store_past_the_old_revision_is_known_by_its_id(
    server: EtcdServer, registry: EtcdRegistry, fresh: EtcdServer
) -> None:
    """Nothing is taken from it as if it followed what was listed."""
    listing = await registry.list("/a/")
    watching = Watching(registry, "/a/", await registry.write([Put("/a/1", b"")]))
    await drive_past(fresh, listing.revision + 10)
    server.take_over_from(fresh)
    with pytest.raises(Compacted):
        await watching.next()
    await watching.stop()
    watching = Watching(registry, "/a/", listing.revision)
    with pytest.raises(Compacted):
        await watching.next()
    await watching.stop()
    again = await registry.list("/a/")
    assert again.store != listing.store
    assert again.revision > listing.revision


async def test_a_mirror_keeps_what_is_in_force_when_the_store_is_emptied(
    server: EtcdServer, registry: EtcdRegistry, fresh: EtcdServer, tmp_path: Path
) -> None:
    """Listeners, hosts and claims are said again by then; the definition is the operator's."""
    vip = ip_address("10.0.0.100")
    publisher, mirror = Publisher(registry), Mirror(registry, first_pause=0.01)
    member = Membership(registry, publisher, tmp_path, "a", 60)
    mirror.on_replaced = member.lost
    await member.join(lambda instance: Host("a", ip_address("192.0.2.1"), instance=instance))
    listener = Listener(vip, Protocol.TCP, 80, "a")
    publisher.set(str(ListenerEntryKey("a", vip, Protocol.TCP, 80)), values.encode(listener))
    running = asyncio.gather(mirror.run(), publisher.run(), member.run())
    revision = await registry.write([Put(str(DefinitionKey(vip)), values.encode(Definition(vip)))])
    async with asyncio.timeout(TIMEOUT):
        subscription = mirror.subscribe()
        while not (mirror.cluster.listeners and mirror.cluster.definitions):
            await subscription.changed()
        await drive_past(fresh, revision + 100)
        server.take_over_from(fresh)
        lease = member.lease
        while member.lease == lease or not member.is_seen_in(mirror.cluster):
            assert mirror.cluster.listeners == {vip: {(Protocol.TCP, 80): {"a": listener}}}
            assert mirror.cluster.definitions == {vip: Definition(vip)}
            await subscription.changed()
    assert mirror.emptied
    assert mirror.cluster.listeners == {vip: {(Protocol.TCP, 80): {"a": listener}}}
    assert mirror.cluster.definitions == {vip: Definition(vip)}
    running.cancel()
    await asyncio.wait({running})
    member.close()


async def test_a_frozen_etcd_is_unavailable_and_comes_back(
    server: EtcdServer, registry: EtcdRegistry, hasty: EtcdRegistry
) -> None:
    revision = await registry.write([Put("/a/1", b"")])
    watching = Watching(hasty, "/a/", revision)
    await hasty.list("/a/")
    server.freeze()
    with pytest.raises(RegistryUnavailable, match=server.endpoint):
        await hasty.list("/a/")
    with pytest.raises(RegistryUnavailable, match=server.endpoint):
        await watching.next()
    server.thaw()
    listing = await registry.list("/a/")
    assert listing.revision == revision
    await watching.stop()


async def test_a_mirror_comes_back_after_a_freeze(
    server: EtcdServer, registry: EtcdRegistry, hasty: EtcdRegistry
) -> None:
    mirror = Mirror(hasty, "/a/", first_pause=0.01)
    running = asyncio.ensure_future(mirror.run())
    async with asyncio.timeout(TIMEOUT):
        await mirror.caught_up(await registry.write([Put("/a/1", b"")]))
        server.freeze()
        while mirror.connected:  # noqa: ASYNC110 - nothing tells of a loss
            await asyncio.sleep(0.01)
        server.thaw()
        await mirror.caught_up(await registry.write([Put("/a/1", b"")]))
        assert mirror.connected
    running.cancel()
    await asyncio.wait({running})


async def test_a_silent_watch_that_is_healthy_stays(
    server: EtcdServer, registry: EtcdRegistry
) -> None:
    """It is probed several times while nothing happens, and must not be taken for dead."""
    after = await registry.write([Put("/a/1", b"")])
    channels = Channels([Endpoint(server.endpoint)], TIMEOUT)
    stream = WatchStream(channels)
    await stream.open(b"/a/", b"/a0", after, patience=TIMEOUT)
    news = asyncio.ensure_future(anext(stream.changes(after, patience=0.2)))
    done, _ = await asyncio.wait({news}, timeout=1.0)
    assert not done
    revision = await registry.write([Put("/a/1", b"")])
    assert (await news).revision == revision
    await stream.close()
    await channels.close()


async def test_nobody_there_is_said_with_the_endpoint() -> None:
    (port,) = free_ports(1)
    registry = EtcdRegistry([f"127.0.0.1:{port}"], timeout=0.3)
    with pytest.raises(RegistryUnavailable, match=f"127.0.0.1:{port}.*refused"):
        await registry.list("/a/")
    with pytest.raises(RegistryUnavailable, match=f"127.0.0.1:{port}"):
        await anext(registry.watch("/a/", 1))
    await registry.close()


async def test_a_dead_endpoint_is_passed_over(server: EtcdServer) -> None:
    (port,) = free_ports(1)
    registry = EtcdRegistry([f"127.0.0.1:{port}", f"http://{server.endpoint}"])
    revision = await registry.write([Put("/a/1", b"")])
    watching = Watching(registry, "/a/", revision - 1)
    assert (await watching.next()).revision == revision
    await watching.stop()
    await registry.close()


async def test_a_frozen_endpoint_is_passed_over(server: EtcdServer, tmp_path: Path) -> None:
    """Two stores stand for two members: what counts is who answers."""
    (tmp_path / "other").mkdir()
    other = EtcdServer(tmp_path / "other")
    other.start()
    only_other = EtcdRegistry([other.endpoint])
    both = EtcdRegistry([server.endpoint, other.endpoint], timeout=3.0)
    try:
        await only_other.write([Put("/a/other", b"")])
        server.freeze()
        assert [entry.key for entry in (await both.list("/a/")).entries] == ["/a/other"]
    finally:
        server.thaw()
        await only_other.close()
        await both.close()
        other.kill()


async def test_more_writes_than_may_be_in_flight_all_happen(registry: EtcdRegistry) -> None:
    await asyncio.gather(*(registry.write([Put(f"/a/{n}", b"")]) for n in range(1000)))
    assert len((await registry.list("/a/")).entries) == 1000


async def test_the_version_is_told(registry: EtcdRegistry) -> None:
    assert (await registry.version()).startswith("3.")


# TLS


async def test_tls_with_a_client_certificate(
    secure_server: EtcdServer, certificates: Certificates, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    cert, key = certificates.issue("client", ca)
    registry = EtcdRegistry([secure_server.endpoint], ca=ca, cert=cert, key=key)
    revision = await registry.write([Put("/a/1", b"")])
    watching = Watching(registry, "/a/", revision - 1)
    assert (await watching.next()).revision == revision
    await watching.stop()

    wrong = certificates.authority("wrong")
    wrong_cert, wrong_key = certificates.issue("stranger", wrong)
    for refused in (
        EtcdRegistry([secure_server.endpoint], ca=wrong, cert=cert, key=key, timeout=0.5),
        EtcdRegistry([secure_server.endpoint], ca=ca, cert=wrong_cert, key=wrong_key, timeout=0.5),
        EtcdRegistry([f"https://{secure_server.endpoint}"], ca=ca, timeout=0.5),
        EtcdRegistry([secure_server.endpoint], timeout=0.5),
    ):
        with pytest.raises(RegistryUnavailable, match=secure_server.endpoint):
            await refused.list("/a/")
        await refused.close()
    assert len((await registry.list("/a/")).entries) == 1
    await registry.close()


async def test_a_server_certificate_of_a_wrong_authority_is_named_as_the_cause(
    secure_server: EtcdServer, certificates: Certificates
) -> None:
    registry = EtcdRegistry(
        [secure_server.endpoint], ca=certificates.authority("wrong"), timeout=1.0
    )
    with pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await registry.list("/a/")
    await registry.close()


@pytest.mark.parametrize(
    ("endpoints", "files", "said"),
    [
        ([], {}, "no endpoints"),
        (["127.0.0.1"], {}, "HOST:PORT"),
        (["ftp://h:1"], {}, "HOST:PORT"),
        (["https://h:1"], {"ca": Path("/nonexistent")}, "No such file"),
        (["h:1"], {"cert": Path("/dev/null")}, "together"),
        (["http://h:1"], {"ca": Path("/dev/null")}, "http"),
    ],
)
async def test_bad_settings_are_refused(
    endpoints: list[str], files: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        EtcdRegistry(endpoints, **files)


async def test_values_longer_than_any_of_ours_do_not_hide_the_others(
    registry: EtcdRegistry,
) -> None:
    """A hostile host can write 1.5 MB a key: a page of those is more than a message may be."""
    for number in range(72):
        await registry.write([Put(f"/a/{number:02}", bytes(1_400_000))])
    await registry.write([Put("/a/z", b"small")])
    listing = await registry.list("/a/")
    assert (len(listing.entries), listing.entries[-1].value) == (73, b"small")
