# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyport.decide.blocks import MOST_CLAIMS, covered, owners
from anyport.decide.election import MOST_CANDIDACIES
from anyport.decide.gathering import MOST_PIECES
from anyport.errors import Conflict
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
    PortBlock,
    Protocol,
    Remaining,
    Void,
)
from anyport.model.definition import Address
from anyport.registry.base import Delete, Entry, Put, Unchanged, Write
from anyport.registry.heartbeats import SILENT_TTLS
from anyport.registry.kept import OFFICE_SECONDS
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
from anyport.registry.limits import MOST
from anyport.registry.memory import MemoryRegistry, MemoryStore
from anyport.registry.mirror import Mirror
from anyport.registry.touched import Subscription, Touched
from anyport.registry.values import Noun, encode

VIP, OTHER = ip_address("10.0.0.100"), ip_address("10.0.0.101")
HTTP = (Protocol.TCP, 80)
TIMEOUT = 10.0
HOST: tuple[Key, Noun] = HostKey("a"), Host("a", ip_address("10.0.0.1"))


@dataclass
class World:
    """A store, someone who writes to it, and a mirror of it that runs."""

    store: MemoryStore = field(default_factory=MemoryStore)
    most: Mapping[type[Key], int] = field(default_factory=lambda: MOST)

    def __post_init__(self) -> None:
        self.registry = MemoryRegistry(self.store)
        self.mirror = Mirror(
            self.registry, first_pause=0.0, settle=0.0, most=self.most, reader="me"
        )

    async def put(self, *pairs: tuple[Key, Noun]) -> None:
        await self.raw(*(Put(str(key), encode(noun)) for key, noun in pairs))

    async def raw(self, *writes: Write) -> None:
        await self.mirror.caught_up(await self.registry.write(writes))


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    task = asyncio.ensure_future(world.mirror.run())
    try:
        async with asyncio.timeout(TIMEOUT):
            yield world
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def waiting() -> AsyncIterator[tuple[World, asyncio.Event]]:
    """Its mirror waits for what hosts say again in another store, and sets the event then."""
    world, called = World(), asyncio.Event()
    world.mirror = Mirror(world.registry, first_pause=0.0, settle=TIMEOUT)
    world.mirror.on_replaced = called.set
    async with running(world):
        await world.mirror.caught_up(0)
        yield world, called


def in_world(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with running(World()) as world:
            await world.mirror.caught_up(0)
            await scenario(world)

    asyncio.run(run())


def listener(host: str = "a", port: int = 80, process: str = "nginx") -> tuple[Key, Noun]:
    return (
        ListenerEntryKey(host, VIP, Protocol.TCP, port),
        Listener(VIP, Protocol.TCP, port, host, process=process),
    )


def claim(host: str = "a", first: int = 40000, last: int = 40063) -> tuple[Key, Noun]:
    return ClaimKey(host, VIP, first), Claim(PortBlock(VIP, first, last), host, 0)


def candidacy(host: str, vip: Address = VIP) -> tuple[Key, Noun]:
    return CandidacyKey(host, vip), Candidacy(vip, host, 0, 0)


async def first_of(subscription: Subscription) -> Touched:
    touched = await subscription.changed()
    assert touched.first
    return touched


def test_nothing_is_told_before_the_first_complete_listing() -> None:
    async def scenario() -> None:
        world = World()
        world.store.lose()
        subscription = world.mirror.subscribe()
        async with running(world):
            waiting = asyncio.ensure_future(subscription.changed())
            done, _ = await asyncio.wait({waiting}, timeout=0.01)
            assert not done
            assert not world.mirror.listed
            world.store.recover()
            assert (await waiting) == Touched(first=True)
            assert world.mirror.listed

    asyncio.run(scenario())


def test_a_host_is_shown_as_drained_while_the_operator_says_so() -> None:
    """Whichever of the two comes first, and whatever the host says meanwhile."""

    async def scenario(world: World) -> None:
        subscription = world.mirror.subscribe()
        await world.put((DrainKey("a"), Drain("a", 1.5)))
        assert world.mirror.cluster.hosts == {}
        await world.put(HOST)
        assert world.mirror.cluster.hosts["a"].state is HostState.DRAINING
        await first_of(subscription)
        again = Host("a", ip_address("10.0.0.1"), weight=7)
        await world.put((HostKey("a"), again))
        assert world.mirror.cluster.hosts["a"] == replace(again, state=HostState.DRAINING)
        await subscription.changed()
        await world.raw(Delete(str(DrainKey("a"))))
        assert world.mirror.cluster.hosts["a"] == again
        assert await subscription.changed() == Touched(hosts={"a"})
        await world.put((DrainKey("a"), Drain("a", 2.5)))
        assert await subscription.changed() == Touched(hosts={"a"})
        await world.raw(Delete(str(HostKey("a"))))
        assert world.mirror.cluster.hosts == {}
        assert world.mirror.cluster.drains["a"].since == 2.5

    in_world(scenario)


def test_what_is_left_of_a_host_is_shown_and_touches_nobody() -> None:
    async def scenario(world: World) -> None:
        subscription = world.mirror.subscribe()
        await world.put(HOST)
        await first_of(subscription)
        await world.put((RemainingKey("a"), Remaining("a", 3)))
        assert world.mirror.cluster.remaining == {"a": Remaining("a", 3)}
        await world.put((HostKey("b"), Host("b", ip_address("10.0.0.2"))))
        assert await subscription.changed() == Touched(hosts={"b"})

    in_world(scenario)


def test_the_first_listing_tells_everything() -> None:
    async def scenario() -> None:
        world = World()
        subscription = world.mirror.subscribe()
        definition = Definition(VIP)
        pairs: list[tuple[Key, Noun]] = [
            (DefinitionKey(VIP), definition),
            (HostKey("a"), Host("a", ip_address("10.0.0.1"))),
            (CandidacyKey("a", VIP), Candidacy(VIP, "a", 1, 0)),
            (DistributingKey("a", VIP), Distributing("a", 1, definition, 5)),
            listener(),
            claim(),
        ]
        await world.registry.write([Put(str(key), encode(noun)) for key, noun in pairs])
        everything = Touched({VIP}, {"a"}, {(VIP, HTTP)}, {VIP}, {VIP}, {VIP}, first=True)
        async with running(world):
            assert await subscription.changed() == everything
            assert await world.mirror.subscribe().changed() == everything
            cluster = world.mirror.cluster
            assert cluster.definitions == {VIP: definition}
            assert cluster.distributing[VIP, "a"].programmed_revision == 5
            assert cluster.claims[("a", PortBlock(VIP, 40000, 40063))].create_revision == 2

    asyncio.run(scenario())


def test_a_change_touches_just_what_it_changes() -> None:
    async def scenario(world: World) -> None:
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        await world.put(listener())
        assert await subscription.changed() == Touched(ports={(VIP, HTTP)})
        assert world.mirror.cluster.listeners == {VIP: {HTTP: {"a": listener()[1]}}}
        await world.raw(Delete(str(listener()[0])))
        assert await subscription.changed() == Touched(ports={(VIP, HTTP)})
        assert world.mirror.cluster.listeners == {}

    in_world(scenario)


def test_every_subscription_hears_every_change() -> None:
    async def scenario(world: World) -> None:
        prompt, late = world.mirror.subscribe(), world.mirror.subscribe()
        for subscription in (prompt, late):
            await first_of(subscription)
        await world.put(listener(port=80))
        assert await prompt.changed() == Touched(ports={(VIP, (Protocol.TCP, 80))})
        await world.put(listener(port=81))
        assert await prompt.changed() == Touched(ports={(VIP, (Protocol.TCP, 81))})
        both = {(VIP, (Protocol.TCP, port)) for port in (80, 81)}
        assert await late.changed() == Touched(ports=both)

    in_world(scenario)


def test_a_consumer_has_followed_when_it_asks_for_more() -> None:
    async def scenario(world: World) -> None:
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        assert not subscription.is_followed
        waiting = asyncio.ensure_future(subscription.changed())
        await asyncio.sleep(0)
        assert subscription.is_followed
        await world.put(listener())
        assert not subscription.is_followed
        await waiting
        assert not subscription.is_followed

    in_world(scenario)


def test_what_is_written_again_unchanged_is_not_told() -> None:
    async def scenario(world: World) -> None:
        await world.put(listener())
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        await world.put(listener())
        await world.put((HostKey("a"), Host("a", ip_address("10.0.0.1"))))
        assert await subscription.changed() == Touched(hosts={"a"})

    in_world(scenario)


def test_after_a_loss_just_what_changed_meanwhile_is_told() -> None:
    async def scenario(world: World) -> None:
        await world.put(listener(port=80), listener(port=81), listener(port=82))
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        world.store.lose()
        world.store.apply([Delete(str(listener(port=80)[0]))])
        key, noun = listener(port=82, process="other")
        world.store.apply([Put(str(key), encode(noun))])
        world.store.compact()
        world.store.recover()
        touched = await subscription.changed()
        assert touched == Touched(ports={(VIP, (Protocol.TCP, port)) for port in (80, 82)})

    in_world(scenario)


def test_a_loss_shows_until_the_registry_is_back() -> None:
    async def scenario(world: World) -> None:
        assert world.mirror.connected
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        world.store.lose()
        while world.mirror.connected:  # noqa: ASYNC110 - nothing tells of a loss
            await asyncio.sleep(0)
        assert world.mirror.stale_since is not None
        assert world.mirror.listed
        world.store.recover()
        await world.put(listener())
        assert world.mirror.connected
        assert world.mirror.stale_since is None

    in_world(scenario)


def test_what_nobody_says_again_in_an_emptied_store_is_gone_but_for_claims() -> None:
    """A host that is away may have their ports in use: they stay till somebody says them."""

    async def scenario(world: World) -> None:
        await world.put(listener(), claim())
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        world.registry.store = MemoryStore()
        world.store.lose()
        assert await subscription.changed() == Touched(ports={(VIP, HTTP)})
        assert world.mirror.cluster.listeners == {}
        assert world.mirror.cluster.revision == world.registry.store.revision
        assert [c.block for c in world.mirror.lost_claims()] == [PortBlock(VIP, 40000, 40063)]
        await world.put(claim())
        assert world.mirror.lost_claims() == []
        await world.raw(Delete(str(claim()[0])))
        assert world.mirror.cluster.claims == {}

    in_world(scenario)


def test_definitions_lost_with_their_store_stay_till_they_are_said_again() -> None:
    async def scenario(world: World) -> None:
        other = ip_address("10.0.0.101")
        wishes: list[tuple[Key, Noun]] = [
            (DefinitionKey(vip), Definition(vip)) for vip in (VIP, other)
        ]
        await world.put(*wishes, HOST)
        await world.put(listener())
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        assert not world.mirror.emptied
        world.registry.store = MemoryStore()
        world.store.lose()
        assert await subscription.changed() == Touched(ports={(VIP, HTTP)}, hosts={"a"})
        for key, wish in wishes:
            assert world.mirror.emptied
            assert world.mirror.cluster.definitions.keys() == {VIP, other}
            await world.put((key, wish))
        assert not world.mirror.emptied
        await world.raw(Delete(str(DefinitionKey(VIP))))
        assert world.mirror.cluster.definitions.keys() == {other}

    in_world(scenario)


def test_a_drain_lost_with_its_store_is_named_till_it_is_said_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drain: tuple[Key, Noun] = DrainKey("a"), Drain("a", 1.0)

    async def scenario(world: World) -> None:
        await world.put(HOST, drain)
        await world.raw(Delete(str(drain[0])))
        await world.put(drain)
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        world.registry.store = MemoryStore()
        world.registry.store.apply([Put(str(HOST[0]), encode(HOST[1]))])
        world.store.lose()
        assert (await subscription.changed()).hosts == {"a"}
        assert world.mirror.cluster.hosts["a"].state is HostState.ACTIVE
        assert world.mirror.lost_drains == {"a"}
        await world.put(drain)
        assert not world.mirror.lost_drains
        await world.raw(Delete(str(drain[0])))
        assert not world.mirror.lost_drains

    in_world(scenario)
    assert "host a: drained no more" in caplog.text


def replaced(world: World, identity: int = 1, past: int = 0) -> MemoryStore:
    """Another store in the place of the world's; `past`: it has come to that revision."""
    store = MemoryStore(identity)
    store.revision = max(past, store.revision)
    world.registry.store = store
    world.store.lose()
    return store


@pytest.mark.parametrize("how", ["another name", "revision gone back", "an older key"])
def test_another_store_is_told_from_a_loss(how: str) -> None:
    """Past the old revision only its name tells, or a key that was made before that revision."""

    async def scenario(world: World) -> None:
        await world.put((DefinitionKey(VIP), Definition(VIP)), HOST)
        await world.put(listener())
        past = 0 if how == "revision gone back" else world.store.revision + 10
        store = replaced(world, 2 if how == "another name" else 1, past)
        if how == "an older key":
            key = str(HostKey("b"))
            store.entries[key] = Entry(key, encode(Host("b", ip_address("10.0.0.2"))), 2, 2)
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        await subscription.changed()
        assert world.mirror.emptied
        assert world.mirror.cluster.definitions.keys() == {VIP}

    in_world(scenario)


def test_a_loss_is_not_taken_for_another_store() -> None:
    async def scenario(world: World) -> None:
        await world.put((DefinitionKey(VIP), Definition(VIP)), HOST)
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        world.store.lose()
        world.store.apply([Delete(str(DefinitionKey(VIP)))])
        world.store.compact()
        world.store.recover()
        assert VIP in (await subscription.changed()).definitions
        assert not world.mirror.emptied

    in_world(scenario)


def test_what_hosts_say_again_in_another_store_was_never_gone() -> None:
    """The mirror shows the old store until the new one has it, and calls for it."""

    async def scenario() -> None:
        async with waiting() as (world, called):
            definition = Definition(VIP)
            published = Distributing("a", 7, definition, 2, frozenset({2}))
            await world.put((DefinitionKey(VIP), definition), HOST, listener(), claim())
            await world.put((DistributingKey("a", VIP), published))
            subscription = world.mirror.subscribe()
            await first_of(subscription)
            before = _contents(world.mirror.cluster)
            store = replaced(world, identity=2, past=100)
            await called.wait()
            assert world.mirror.settling
            assert _contents(world.mirror.cluster) == before
            store.apply([Put(str(key), encode(noun)) for key, noun in (HOST, listener(), claim())])
            await subscription.changed()
            assert not world.mirror.settling
            assert world.mirror.cluster.listeners == {VIP: {HTTP: {"a": listener()[1]}}}
            # It distributes still, and the claim that was programmed is, by its new number.
            assert world.mirror.cluster.distributing == {
                (VIP, "a"): Distributing("a", 7, definition, store.revision)
            }

    asyncio.run(scenario())


@pytest.mark.parametrize("is_lost_meanwhile", [False, True])
def test_what_is_said_in_another_store_and_withdrawn_again_is_withdrawn(
    is_lost_meanwhile: bool,
) -> None:
    """Before the mirror shows that store: no listing would tell."""

    async def scenario() -> None:
        async with waiting() as (world, called):
            definition: tuple[Key, Noun] = DefinitionKey(VIP), Definition(VIP)
            other: tuple[Key, Noun] = DefinitionKey(OTHER), Definition(OTHER)
            drains: list[tuple[Key, Noun]] = [(DrainKey(h), Drain(h, 1.0)) for h in ("a", "b")]
            await world.put(HOST, definition, other, claim(), *drains)
            subscription = world.mirror.subscribe()
            await first_of(subscription)
            store = replaced(world, identity=2)
            await called.wait()
            say_briefly(store, definition, claim(), drains[0])
            if is_lost_meanwhile:
                called.clear()
                await taken_in()
                store.lose()
                await taken_in()
                store.recover()
                await called.wait()
            assert world.mirror.settling
            store.apply([Put(str(HOST[0]), encode(HOST[1]))])
            await subscription.changed()
            assert world.mirror.cluster.definitions.keys() == {OTHER}
            assert world.mirror.cluster.claims == {}
            assert world.mirror.lost_claims() == []
            assert world.mirror.cluster.drains == {}
            assert world.mirror.lost_drains == {"b"}

    asyncio.run(scenario())


def test_a_lost_drain_that_is_said_again_in_yet_another_store_is_lost_no_more() -> None:
    async def scenario() -> None:
        async with waiting() as (world, called):
            drain: tuple[Key, Noun] = DrainKey("a"), Drain("a", 1.0)
            await world.put(HOST, drain)
            for identity in (2, 3):
                world.store = replaced(world, identity, past=100 * identity)
                await called.wait()
                called.clear()
                if identity == 3:
                    assert world.mirror.lost_drains == {"a"}
                    say_briefly(world.store, drain)
                world.store.apply([Put(str(HOST[0]), encode(HOST[1]))])
                await world.mirror.caught_up(world.store.revision)
            assert world.mirror.lost_drains == set()

    asyncio.run(scenario())


def say_briefly(store: MemoryStore, *pairs: tuple[Key, Noun]) -> None:
    store.apply([Put(str(key), encode(noun)) for key, noun in pairs])
    store.apply([Delete(str(key)) for key, _ in pairs])


async def taken_in() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


def test_of_another_store_a_claim_that_was_not_there_is_not_taken_for_programmed() -> None:
    async def scenario(world: World) -> None:
        definition = Definition(VIP)
        published = DistributingKey("a", VIP), Distributing("a", 7, definition, 900)
        await world.put((DefinitionKey(VIP), definition), HOST, published)
        store = replaced(world, identity=2)
        store.apply([Put(str(HOST[0]), encode(HOST[1]))])
        store.apply([Put(str(key), encode(noun)) for key, noun in [claim("b")]])
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        await subscription.changed()
        [new] = world.mirror.cluster.claims.values()
        [kept] = world.mirror.cluster.distributing.values()
        assert kept.programmed_revision < new.create_revision

    in_world(scenario)


def test_a_distributor_that_does_not_take_office_again_is_not_waited_for() -> None:
    """Its daemon began anew in the other store, and knows of no tenure."""

    async def scenario() -> None:
        now = 0.0
        world = World()
        world.mirror = Mirror(world.registry, first_pause=0.0, settle=0.0, clock=lambda: now)
        async with running(world):
            await world.mirror.caught_up(0)
            definition = Definition(VIP)
            published = DistributingKey("a", VIP), Distributing("a", 7, definition, 900)
            await world.put((DefinitionKey(VIP), definition), HOST, published)
            subscription = world.mirror.subscribe()
            await first_of(subscription)
            store = replaced(world, identity=2)
            store.apply([Put(str(key), encode(noun)) for key, noun in (HOST, listener())])
            await subscription.changed()
            now = OFFICE_SECONDS - 1
            await world.put(listener(port=81))
            await subscription.changed()
            assert world.mirror.cluster.distributing.keys() == {(VIP, "a")}
            now = OFFICE_SECONDS
            await world.put(listener(port=82))
            assert world.mirror.cluster.distributing == {}
            assert (await subscription.changed()).distributing == {VIP}

    asyncio.run(scenario())


def test_deleted_definitions_are_no_emptied_store() -> None:
    async def scenario(world: World) -> None:
        await world.put((DefinitionKey(VIP), Definition(VIP)))
        await world.raw(Delete(str(DefinitionKey(VIP))))
        assert not world.mirror.emptied
        world.store.lose()
        world.store.recover()
        await world.put(listener())
        assert not world.mirror.emptied

    in_world(scenario)


def test_an_unreadable_value_is_reported_once_and_skipped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(world: World) -> None:
        key = str(listener()[0])
        for garbage in (b"", b"{}", b"[" * 10_000):
            await world.raw(Put(key, garbage))
        await world.put(listener(port=81))
        assert world.mirror.cluster.listeners == {
            VIP: {(Protocol.TCP, 81): {"a": listener(port=81)[1]}}
        }
        assert [r.message for r in caplog.records if key in r.message] == [
            f"registry: {key}: skipped: Input data was truncated"
        ]
        await world.put(listener())
        assert HTTP in world.mirror.cluster.listeners[VIP]

    with caplog.at_level(logging.WARNING):
        in_world(scenario)


def test_an_unreadable_value_withdraws_no_listener() -> None:
    async def scenario(world: World) -> None:
        key = str(listener()[0])
        await world.put(listener())
        await world.raw(Put(key, b"{"))
        assert HTTP in world.mirror.cluster.listeners[VIP]
        await world.raw(Delete(key))
        await world.raw(Put(key, b"{"))
        assert world.mirror.cluster.listeners == {}

    in_world(scenario)


def test_an_unreadable_value_withdraws_a_claim() -> None:
    """Who owns a block must be one answer, whether a host saw the earlier value or not."""

    async def scenario(world: World) -> None:
        await world.put(claim())
        await world.raw(Put(str(claim()[0]), b"{"))
        assert world.mirror.cluster.claims == {}

    in_world(scenario)


def test_keys_of_other_kinds_are_passed_over() -> None:
    async def scenario(world: World) -> None:
        for key in ("hosts/a/novelty", "hosts//self", "hosts/\udcff/self", "vips/x"):
            await world.raw(Put(f"/anyport/v1/{key}", b"x"))
        await world.put(listener())
        assert len(world.mirror.cluster.listeners) == 1

    in_world(scenario)


def test_a_claim_whose_block_grew_replaces_the_old_one() -> None:
    async def scenario(world: World) -> None:
        await world.put(claim(last=40063))
        await world.put(claim(last=40127))
        assert [c.block.last for c in world.mirror.cluster.claims.values()] == [40127]
        await world.raw(Delete(str(claim()[0])))
        assert world.mirror.cluster.claims == {}

    in_world(scenario)


# Any sequence of writes, compactions, losses and restarts leaves the mirror
# equal to a fresh listing; hosts that say more than they may, too.

_FEW: dict[type[Key], int] = {ClaimKey: 2, VoidKey: 1, CandidacyKey: 1, DistributingKey: 1}
_HOSTS = ["a", "b"]
_NOUNS: list[tuple[Key, Noun]] = [
    *(listener(host, port, process) for host in _HOSTS for port in (80, 81) for process in "xy"),
    *(claim(host, 40000, last) for host in _HOSTS for last in (40063, 40127)),
    *(claim(host, first, 40255) for host in _HOSTS for first in (40064, 40128)),
    *((VoidKey(h, VIP, age), Void(VIP, age, h)) for h in _HOSTS for age in (2, 3)),
    *(candidacy(host, OTHER) for host in _HOSTS),
    *((HostKey(h), Host(h, ip_address("10.0.0.1"), weight=w)) for h in _HOSTS for w in (1, 2)),
    *((CandidacyKey(h, VIP), Candidacy(VIP, h, rank, 0)) for h in _HOSTS for rank in (1, 2)),
    (DefinitionKey(VIP), Definition(VIP)),
    (DefinitionKey(VIP), Definition(VIP, hosts=frozenset("a"))),
    (DistributingKey("a", VIP), Distributing("a", 1, Definition(VIP), 3)),
    *((ConnectionsKey("a", VIP, n), ConnectionsPiece("a", 3, 2, b"rows")) for n in (0, 1)),
]
_puts = st.sampled_from(_NOUNS).map(lambda pair: Put(str(pair[0]), encode(pair[1])))
_deletes = st.sampled_from(_NOUNS).map(lambda pair: Delete(str(pair[0])))
_garbage = st.sampled_from([k for k, _ in _NOUNS if isinstance(k, ClaimKey | CandidacyKey)]).map(
    lambda key: Put(str(key), b"{}")
)
_transactions = st.lists(
    _puts | _deletes | _garbage, min_size=1, max_size=4, unique_by=lambda write: write.key
)
_steps = st.lists(_transactions | st.sampled_from(["compact", "lose", "recover", "settle"]))


def _contents(cluster: Cluster) -> tuple[dict[Any, Any], ...]:
    return (
        dict(cluster.definitions),
        dict(cluster.hosts),
        dict(cluster.listeners),
        dict(cluster.claims),
        dict(cluster.candidacies),
        dict(cluster.distributing),
        dict(cluster.voided),
        {about: dict(voids) for about, voids in cluster.voids.items()},
        {vip: list(covered(edges)) for vip, edges in cluster.excess.items()},
        {key: dict(pieces) for key, pieces in cluster.connections.items()},
    )


class Shadow:
    """A consumer that looks only at what it is told was touched."""

    def __init__(self) -> None:
        self.seen: dict[object, object] = {}

    def look(self, touched: Touched, cluster: Cluster) -> None:
        for vip, port in touched.ports:
            hosts = cluster.listeners.get(vip, {}).get(port, {})
            self.seen[vip, port] = sorted((name, said.process) for name, said in hosts.items())
        for host in touched.hosts:
            self.seen[host] = cluster.hosts.get(host)
        for vip in touched.claims:
            self.seen["claims", vip] = sorted(map(repr, cluster.claims.values()))
        for vip in touched.candidacies:
            of_vip = {key: said for key, said in cluster.candidacies.items() if key[0] == vip}
            self.seen["candidacies", vip] = of_vip
        for vip in touched.definitions:
            self.seen["definition", vip] = cluster.definitions.get(vip)
        for vip in touched.distributing:
            self.seen["distributing", vip] = dict(cluster.distributing)


async def _take(step: list[Write] | str, world: World) -> None:
    match step:
        case "compact":
            world.store.compact()
        case "lose":
            world.store.lose()
        case "recover":
            world.store.recover()
        case "settle":  # let the mirror run
            for _ in range(5):
                await asyncio.sleep(0)
        case list():
            world.store.apply(step)


@settings(max_examples=300, deadline=None)
@given(_steps)
def test_the_mirror_equals_a_fresh_listing(steps: list[list[Write] | str]) -> None:
    async def scenario() -> None:
        world = World(most=_FEW)
        async with running(world):
            for step in steps:
                await _take(step, world)
            world.store.recover()
            await world.put((HostKey("last"), Host("last", ip_address("10.0.0.9"))))
            fresh = World(world.store, _FEW)
            async with running(fresh):
                await fresh.mirror.caught_up(0)
            assert _contents(world.mirror.cluster) == _contents(fresh.mirror.cluster)
            assert world.mirror.cluster.revision == world.store.revision

    asyncio.run(scenario())


@settings(max_examples=300, deadline=None)
@given(_steps)
def test_who_looks_at_what_was_touched_knows_everything(steps: list[list[Write] | str]) -> None:
    async def scenario() -> None:
        world, shadow = World(most=_FEW), Shadow()
        subscription = world.mirror.subscribe()

        async def consume() -> None:
            while "last" not in shadow.seen:
                shadow.look(await subscription.changed(), world.mirror.cluster)

        consuming = asyncio.ensure_future(consume())
        async with running(world):
            for step in steps:
                await _take(step, world)
            world.store.recover()
            await world.put((HostKey("last"), Host("last", ip_address("10.0.0.9"))))
            await consuming
            seen = dict(shadow.seen)
            named = Touched(
                {VIP}, set(world.mirror.cluster.hosts), claims={VIP}, distributing={VIP}
            )
            named.candidacies = {VIP, OTHER}
            named.ports = {(VIP, (Protocol.TCP, port)) for port in (80, 81)}
            shadow.look(named, world.mirror.cluster)
            assert {k: v or None for k, v in shadow.seen.items()} == {
                k: seen.get(k) or None for k in shadow.seen
            }

    asyncio.run(scenario())


_LIMITED: list[tuple[Key, Noun]] = [
    *(claim(first=first, last=40255) for first in (40000, 40064, 40128)),
    *(candidacy("a", vip) for vip in (VIP, OTHER)),
    *((VoidKey("a", VIP, age), Void(VIP, age, "a")) for age in (2, 3)),
]
_words = st.sampled_from(_LIMITED).flatmap(
    lambda pair: st.sampled_from(
        [Put(str(pair[0]), encode(pair[1])), Put(str(pair[0]), b"{}"), Delete(str(pair[0]))]
    )
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_words, min_size=4))
def test_what_counts_of_too_much_depends_on_no_reader(words: list[Write]) -> None:
    async def scenario() -> None:
        world = World(most=_FEW)
        async with running(world):
            for word in words:
                await world.mirror.caught_up(world.store.apply([word]))
            async with running(World(world.store, _FEW)) as fresh:
                await fresh.mirror.caught_up(0)
            assert _contents(world.mirror.cluster) == _contents(fresh.mirror.cluster)

    asyncio.run(scenario())


def blocks(world: World) -> tuple[list[int], list[int]]:
    """First ports of the claims that count, and of those that were voided."""
    cluster = world.mirror.cluster
    shown = (cluster.claims.values(), cluster.voided.values())
    counting, voided = (sorted(c.block.first for c in claims) for claims in shown)
    return counting, voided


def void(of: Claim, by: str = "b") -> tuple[Key, Noun]:
    vip = of.block.vip
    return VoidKey(by, vip, of.create_revision), Void(vip, of.create_revision, by)


def test_a_voided_claim_counts_no_more() -> None:
    async def scenario(world: World) -> None:
        await world.put(claim())
        [first] = world.mirror.cluster.claims.values()
        await world.put(void(first))
        assert blocks(world) == ([], [40000])
        # Two distributors may have said so; one that takes its word back does not speak for both.
        await world.put(void(first, by="c"))
        await world.raw(Delete(str(void(first)[0])))
        assert blocks(world) == ([], [40000])
        # Claimed anew it is another claim.
        await world.raw(Delete(str(claim()[0])))
        await world.put(claim())
        assert blocks(world) == ([40000], [])

    in_world(scenario)


def test_who_lists_later_sees_the_same_claims_void() -> None:
    """A void may come before its claim in a listing: keys are in the order of hosts' names."""

    async def scenario(world: World) -> None:
        await world.put(claim())
        [first] = world.mirror.cluster.claims.values()
        for by in ("A", "z"):
            await world.put(void(first, by=by))
            async with running(replace(world)) as later:
                await later.mirror.caught_up(world.mirror.cluster.revision)
                assert blocks(later) == blocks(world) == ([], [40000])
            await world.raw(Delete(str(void(first, by=by)[0])))

    in_world(scenario)


def test_whoever_has_a_block_is_told_that_it_was_voided() -> None:
    async def scenario(world: World) -> None:
        await world.put(claim())
        subscription = world.mirror.subscribe()
        await subscription.changed()
        [first] = world.mirror.cluster.claims.values()
        await world.put(void(first))
        assert (await subscription.changed()).claims == {VIP}

    in_world(scenario)


def test_a_claim_that_is_written_again_is_no_older_than_that() -> None:
    """Else a host could let an old claim grow over what others own."""

    async def scenario(world: World) -> None:
        await world.put(claim(last=40000))
        await world.put(claim(host="b", first=40001))
        await world.put(claim(last=40063))
        assert [c.host for c in owners(world.mirror.cluster.claims.values())] == ["b"]

    in_world(scenario)


def test_a_hundred_thousand_bad_values_are_one_line_each_in_log_and_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(world: World) -> None:
        await world.put(listener("b"))
        keys = [str(ListenerEntryKey("a", VIP, p, n)) for p in Protocol for n in range(1, 50_001)]
        for batch in range(0, len(keys), 100):
            last = await world.registry.write([Put(key, b"{") for key in keys[batch : batch + 100]])
        await world.mirror.caught_up(last)
        assert world.mirror.cluster.listeners == {VIP: {HTTP: {"b": listener("b")[1]}}}
        assert dict(world.mirror.unreadable.problems()) == {
            "host a": f"100000 values of its in the registry skipped, as {keys[0]}: "
            "Input data was truncated"
        }
        for batch in range(0, len(keys), 100):
            last = await world.registry.write([Delete(key) for key in keys[batch : batch + 100]])
        await world.mirror.caught_up(last)
        assert world.mirror.unreadable.problems() == {}

    with caplog.at_level(logging.WARNING):
        in_world(scenario)
    assert len([r for r in caplog.records if "skipped" in r.message]) == 1


def test_a_host_may_not_say_more_than_so_many_listeners() -> None:
    async def scenario(world: World) -> None:
        world.mirror = Mirror(world.registry, first_pause=0.0, most_listeners=2)
        async with running(world):
            await world.put(*(listener(port=port) for port in (80, 81, 82)), listener("b"))
            ports = world.mirror.cluster.listeners[VIP]
            assert {port: set(hosts) for (_, port), hosts in ports.items()} == {
                80: {"a", "b"},
                81: {"a"},
            }
            assert "says too many of these" in world.mirror.unreadable.problems()["host a"]
            await world.put(listener(port=81, process="other"))  # no more than before
            await world.raw(Delete(str(listener(port=80)[0])))
            await world.put(listener(port=83))
            assert {port for _, port in world.mirror.cluster.listeners[VIP]} == {80, 81, 83}

    in_world(scenario)


def test_of_a_host_that_claims_too_much_the_oldest_claims_count() -> None:
    """And of what it claims beyond, the ports are nobody's: it counts when another of them goes."""

    async def scenario(world: World) -> None:
        world.mirror = Mirror(world.registry, first_pause=0.0, most=_FEW)
        async with running(world):
            for first in (40192, 40000, 40128):
                await world.put(claim(first=first, last=first + 63))
            await world.put(claim("b", 40064, 40127))
            assert blocks(world)[0] == [40000, 40064, 40192]
            assert [*covered(world.mirror.cluster.excess[VIP])] == [*range(40128, 40192)]
            problems = world.mirror.unreadable.problems()
            assert list(problems) == ["host a"]
            assert "says too many of these" in problems["host a"]
            await world.raw(Delete(str(claim(first=40192)[0])))
            assert blocks(world)[0] == [40000, 40064, 40128]
            assert not world.mirror.cluster.excess
            assert not world.mirror.unreadable.problems()

    in_world(scenario)


def test_a_host_that_says_too_much_takes_no_room_from_others() -> None:
    async def scenario(world: World) -> None:
        hostile: list[tuple[Key, Noun]] = [claim("b", n + 1, n + 1) for n in range(2 * MOST_CLAIMS)]
        vips = [ip_address(f"10.1.{n // 256}.{n % 256}") for n in range(1000)]
        hostile += [candidacy("b", vip) for vip in vips]
        hostile += [
            (DistributingKey("b", vip), Distributing("b", 1, Definition(vip), 0)) for vip in vips
        ]
        await world.put(
            claim("a", 50000, 50063), (CandidacyKey("a", VIP), Candidacy(VIP, "a", 0, 0))
        )
        world.store.apply([Put(str(key), encode(noun)) for key, noun in hostile])
        await world.put(
            claim("c", 50064, 50127), (CandidacyKey("c", VIP), Candidacy(VIP, "c", 0, 0))
        )
        cluster = world.mirror.cluster
        assert Counter(host for host, _ in cluster.claims) == {"a": 1, "b": MOST_CLAIMS, "c": 1}
        candidates = Counter(host for _, host in cluster.candidacies)
        assert candidates == {"a": 1, "b": MOST_CANDIDACIES, "c": 1}
        assert Counter(host for _, host in cluster.distributing) == {"b": MOST_CANDIDACIES}
        assert list(world.mirror.unreadable.problems()) == ["host b"]

    in_world(scenario)


# ---- hosts whose leases others keep alive ----


def under(lease: int, *pairs: tuple[Key, Noun]) -> list[Put]:
    return [Put(str(key), encode(noun), lease) for key, noun in pairs]


def heartbeat(host: str) -> tuple[Key, Noun]:
    return HeartbeatKey(host), Heartbeat(host, 5)


async def a_dead_host(world: World) -> int:
    """`a`, which had all that a host may have, and whose lease somebody keeps alive; the lease."""
    lease = await world.registry.grant(5)
    leased = [
        HOST,
        heartbeat("a"),
        listener(),
        (CandidacyKey("a", VIP), Candidacy(VIP, "a", 1, 0)),
        (DistributingKey("a", VIP), Distributing("a", 7, Definition(VIP), 2)),
        (RemainingKey("a"), Remaining("a", 3)),
    ]
    await world.raw(*under(lease, *leased))
    await world.put(claim(), listener("b"), heartbeat("b"), (DrainKey("a"), Drain("a", 1.0)))
    await world.put(heartbeat("me"))
    for _ in range(SILENT_TTLS):
        await world.put(heartbeat("b"))
        await world.put(heartbeat("me"))
    return lease


def test_of_a_host_whose_heartbeat_stands_still_nothing_is_shown_that_goes_with_its_lease() -> None:
    async def scenario(world: World) -> None:
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        lease = await a_dead_host(world)
        assert world.mirror.silent == {"a"}
        cluster = world.mirror.cluster
        assert not cluster.hosts
        assert not cluster.candidacies
        assert not cluster.distributing
        assert not cluster.remaining
        assert cluster.listeners == {VIP: {HTTP: {"b": listener("b")[1]}}}
        assert [c.host for c in cluster.claims.values()] == ["a"]
        assert list(cluster.drains) == ["a"]
        touched = await subscription.changed()
        assert touched.hosts == {"a"}
        assert (VIP, HTTP) in touched.ports
        assert touched.candidacies == touched.distributing == {VIP}
        # What comes beneath its prefix without a heartbeat does not show either.
        await world.raw(*under(lease, listener(port=81)))
        assert cluster.listeners == {VIP: {HTTP: {"b": listener("b")[1]}}}

    in_world(scenario)


def test_it_is_back_with_its_heartbeat() -> None:
    async def scenario(world: World) -> None:
        lease = await a_dead_host(world)
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        await world.raw(*under(lease, heartbeat("a"), listener(port=81)))
        cluster = world.mirror.cluster
        assert not world.mirror.silent
        assert [host.state for host in cluster.hosts.values()] == [HostState.DRAINING]
        assert {port: set(hosts) for port, hosts in cluster.listeners[VIP].items()} == {
            HTTP: {"a", "b"},
            (Protocol.TCP, 81): {"a"},
        }
        assert list(cluster.distributing) == [(VIP, "a")]
        assert (await subscription.changed()).hosts == {"a"}

    in_world(scenario)


def test_what_stands_for_its_absence() -> None:
    async def scenario(world: World) -> None:
        assert world.mirror.absence("a") == Unchanged(str(HostKey("a")), 0)
        lease = await a_dead_host(world)
        absence = world.mirror.absence("a")
        await world.registry.write([Put("/other", b"")], [absence])
        await world.raw(*under(lease, heartbeat("a")))
        with pytest.raises(Conflict):
            await world.registry.write([Put("/other", b"")], [absence])

    in_world(scenario)


def test_after_a_loss_of_the_registry_the_count_of_those_that_live_begins_anew() -> None:
    async def scenario(world: World) -> None:
        await world.put(heartbeat("a"), HOST, heartbeat("me"))
        for _ in range(SILENT_TTLS - 1):
            await world.put(heartbeat("me"))
        world.store.lose()
        for host in ("me", "me", "me", "a"):
            world.store.apply(under(0, heartbeat(host)))
        world.store.compact()
        world.store.recover()
        await world.put(heartbeat("me"))
        assert not world.mirror.silent
        assert list(world.mirror.cluster.hosts) == ["a"]


def test_a_host_may_not_say_more_than_so_many_pieces() -> None:
    """Of whatever VIPs; they touch their VIP's distributor."""

    async def scenario(world: World) -> None:
        subscription = world.mirror.subscribe()
        await first_of(subscription)
        vips = [ip_address(f"10.0.0.{n}") for n in range(100, 103)]
        keys = [ConnectionsKey("a", vip, n) for vip in vips for n in range(MOST_PIECES)]
        for vip in vips:
            piece = ConnectionsPiece("a", 3, MOST_PIECES, b"rows")
            await world.put(*((key, piece) for key in keys if key.vip == vip))
        cluster = world.mirror.cluster
        assert [len(cluster.connections.get((vip, "a"), {})) for vip in vips] == [64, 64, 0]
        assert (await subscription.changed()).connections == set(vips[:2])
        assert "says too many of these" in world.mirror.unreadable.problems()["host a"]
        await world.put((ConnectionsKey("b", vips[2], 0), ConnectionsPiece("b", 3, 1)))
        assert (vips[2], "b") in world.mirror.cluster.connections
        await world.raw(*(Delete(str(key)) for key in keys[:64]))
        assert (vips[0], "a") not in world.mirror.cluster.connections

    in_world(scenario)
