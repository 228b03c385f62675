# SPDX-License-Identifier: Apache-2.0
"""Whatever hosts do and suffer, no port is in two hands, and in the end all have ports again.

Three hosts on a real etcd: claims that race, daemons and hosts that are gone for a moment, for a
lease, or for a quarantine, and come back; a definition that changes; sockets that linger.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from anyport.model import ANY, Definition, PortSet, Protocol
from tests.contract.etcd_server import EtcdServer
from tests.support.block_world import FIRST, LAST, NAMES, VIP, BlockWorld

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="needs etcd"),
]

SEQUENCES = 200
DEFINITIONS = [
    Definition(VIP),
    Definition(VIP, PortSet.parse("40004-40009")),
    Definition(VIP, ANY, hosts=frozenset({"a", "b"})),
]


@dataclass(frozen=True)
class Action:
    word: str
    carry_out: Callable[[BlockWorld], Awaitable[None]]

    def __repr__(self) -> str:
        return self.word


PASSES = Action("quarantine passes", BlockWorld.quarantine_passes)


def binding(name: str, protocol: Protocol, times: int) -> Action:
    async def do(world: BlockWorld) -> None:
        for _ in range(times):
            handed = world.members[name].bind_zero(protocol)
            world.check()
            if handed is None:
                return
            owners = [m.routes().owner(handed.port) for m in world.distributors()]
            assert owners in ([], [name])

    return Action(f"{name} binds {times} {protocol.word}", do)


def closing(name: str, which: int, lingers: bool) -> Action:
    async def do(world: BlockWorld) -> None:
        world.members[name].close(which, lingers)

    return Action(f"{name} closes {which}{' and it lingers' * lingers}", do)


def on_member(word: str, name: str) -> Action:
    async def do(world: BlockWorld) -> None:
        member = world.members[name]
        match word:
            case "is cut off":
                await member.cut_off()
            case "is back":
                await member.connect(again=False)
            case "starts again":
                await member.cut_off()
                await member.connect(again=True)
            case "loses its lease":
                await member.cut_off()
                await world.expire(name)
            case "lingers no more":
                member.linger_no_more()
            case "ticks":
                member.tick()

    return Action(f"{name} {word}", do)


def greedy(name: str) -> Action:
    """It takes all that it is given, until there is no more for it."""

    async def do(world: BlockWorld) -> None:
        for _ in range(3):
            while world.members[name].bind_zero(Protocol.TCP):
                world.check()
            await world.turns(200)

    return Action(f"{name} takes all", do)


def in_turn(*together: Action) -> Action:
    async def do(world: BlockWorld) -> None:
        for action in together:
            await action.carry_out(world)
            world.check()

    return Action("; ".join(action.word for action in together), do)


def away(name: str, others: Sequence[str], back: str) -> Action:
    """Its blocks move on, and it comes back."""
    return in_turn(
        on_member("is cut off", name),
        PASSES,
        *(greedy(other) for other in others if other != name),
        on_member(back, name),
        greedy(name),
    )


def defining(definition: Definition) -> Action:
    return Action(f"define {definition}", lambda world: world.define(definition))


def enumerating(name: str) -> Action:
    """For a while ports of blocks are enumerated, some in use."""
    return in_turn(
        defining(DEFINITIONS[1]), waiting(200), defining(DEFINITIONS[0]), waiting(200), greedy(name)
    )


def waiting(turns: int) -> Action:
    return Action(f"{turns} turns", lambda world: world.turns(turns))


names = st.sampled_from(NAMES)
SUFFERED = ["is cut off", "is back", "starts again", "loses its lease", "lingers no more", "ticks"]
actions = st.one_of(
    st.builds(binding, names, st.sampled_from(Protocol), st.integers(1, 6)),
    st.builds(binding, names, st.just(Protocol.TCP), st.integers(1, 6)),
    st.builds(closing, names, st.integers(0, 9), st.booleans()),
    st.builds(on_member, st.sampled_from(SUFFERED), names),
    st.builds(on_member, st.sampled_from(SUFFERED), names),
    st.builds(defining, st.sampled_from(DEFINITIONS)),
    st.just(PASSES),
    st.builds(waiting, st.integers(1, 400)),
    st.builds(waiting, st.integers(1, 400)),
    st.builds(greedy, names),
    st.builds(away, names, st.permutations(NAMES), st.sampled_from(["is back", "starts again"])),
    st.builds(enumerating, names),
)


async def recover(world: BlockWorld) -> None:
    """All are there again, nothing is held: nothing is stranded either."""
    await world.define(Definition(VIP))
    for member in world.members.values():
        await member.connect(again=False)
        while member.kernel.taken:
            member.close(0, lingers=False)
        member.linger_no_more()
    await world.until(lambda: nothing_is_stranded(world), "every port to be somebody's to hand out")
    world.check()


def nothing_is_stranded(world: BlockWorld) -> bool:
    """Each port of a block is in the pool of its owner; and who has none found none unclaimed."""
    members = world.members.values()
    claims = world.members["a"].mirror.cluster.claims.values()
    claimed = {port for c in claims for port in range(c.block.first, c.block.last + 1)}
    pooled = [port for m in members for port in m.on_offer(Protocol.TCP)]
    served = all(m.pools.free(VIP) > 0 for m in members) or len(claimed) == LAST - FIRST + 1
    return served and sorted(pooled) == sorted(claimed)


@settings(
    max_examples=SEQUENCES,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
@given(sequence=st.lists(actions, min_size=5, max_size=40))
async def test_no_port_is_in_two_hands(server: EtcdServer, sequence: list[Action]) -> None:
    world = BlockWorld(server.endpoint)
    await world.up()
    try:
        for action in sequence:
            await action.carry_out(world)
            world.check()
        await recover(world)
    finally:
        await world.down()
