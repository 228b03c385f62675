# SPDX-License-Identifier: Apache-2.0
"""The life of block ports, on a kernel side that is a few sets and a clock that is a number."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import data, integers, sampled_from

from anyport.agent.ports import PortPools
from anyport.kernel.listen import HandedPort
from anyport.model import PortBlock, Protocol
from anyport.model.definition import Address

VIP = ip_address("10.0.0.80")
BLOCK = PortBlock(VIP, 40000, 40003)
OTHER = PortBlock(VIP, 40100, 40101)
REST = 60.0


class Kernel:
    """PoolKernel as sets: pools, ports handed out, and ports that something holds."""

    def __init__(self) -> None:
        self.pools: dict[tuple[Address, Protocol], list[int]] = {}
        self.taken: dict[int, HandedPort] = {}
        self.held: set[tuple[Protocol, int]] = set()
        self.cookies = 0

    def fill(self, vip: Address, protocol: Protocol, ports: Iterable[int]) -> None:
        pool = self.pools.setdefault((vip, protocol), [])
        for port in ports:
            assert port not in pool, "a port twice in the pool would be handed out twice"
            pool.append(port)

    def pool(self, vip: Address, protocol: Protocol) -> list[int]:
        return list(self.pools.get((vip, protocol), []))

    def handed(self) -> list[HandedPort]:
        return list(self.taken.values())

    def freed(self, cookie: int) -> None:
        self.taken.pop(cookie, None)

    def bindable(self, vip: Address, protocol: Protocol, port: int) -> bool:
        return (protocol, port) not in self.held

    def pop(self, protocol: Protocol) -> HandedPort | None:
        """bind(VIP, 0) of a program."""
        pool = self.pools.get((VIP, protocol), [])
        if not pool:
            return None
        self.cookies += 1
        port = HandedPort(self.cookies, VIP, protocol, pool.pop(0), since_ns=0, bound=True)
        self.taken[port.cookie] = port
        self.held.add((protocol, port.port))
        return port


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def pools() -> tuple[Kernel, Clock, PortPools]:
    kernel, clock = Kernel(), Clock()
    return kernel, clock, PortPools(kernel, REST, clock)


def everything(port: int) -> bool:
    return True


def nothing(port: int) -> bool:
    return False


def test_a_fresh_block_is_offered_at_once_but_for_what_is_held() -> None:
    kernel, _, ports = pools()
    kernel.held.add((Protocol.TCP, 40001))
    ports.use(VIP, [BLOCK], everything)
    assert kernel.pool(VIP, Protocol.TCP) == [40000, 40002, 40003]
    assert ports.free(VIP) == 3


def test_a_port_rests_after_it_is_freed() -> None:
    kernel, clock, ports = pools()
    ports.use(VIP, [BLOCK], everything)
    port = kernel.pop(Protocol.TCP)
    assert port is not None
    ports.on_handed(port.cookie, VIP, Protocol.TCP, port.port)
    assert ports.used(BLOCK) == 1
    kernel.held.discard((Protocol.TCP, port.port))
    kernel.freed(port.cookie)
    ports.on_freed(port.cookie, VIP, Protocol.TCP, port.port)
    clock.now += REST - 1
    ports.tick()
    assert port.port not in kernel.pool(VIP, Protocol.TCP)
    clock.now += 1
    ports.tick()
    assert kernel.pool(VIP, Protocol.TCP)[-1] == port.port


def test_a_port_with_a_socket_left_on_it_is_never_offered() -> None:
    kernel, clock, ports = pools()
    ports.use(VIP, [BLOCK], everything)
    port = kernel.pop(Protocol.UDP)
    assert port is not None
    ports.on_handed(port.cookie, VIP, Protocol.UDP, port.port)
    ports.on_freed(port.cookie, VIP, Protocol.UDP, port.port)  # its child lives on
    for _ in range(5):
        clock.now += REST
        ports.tick()
    assert port.port not in kernel.pool(VIP, Protocol.UDP)


def test_a_socket_that_went_unseen_loses_no_port() -> None:
    """IBM PI06006: ports leak from the pool by use count until it is empty."""
    kernel, clock, ports = pools()
    ports.use(VIP, [BLOCK], everything)
    port = kernel.pop(Protocol.TCP)
    assert port is not None
    ports.on_handed(port.cookie, VIP, Protocol.TCP, port.port)
    kernel.held.discard((Protocol.TCP, port.port))  # closed, and no event
    for _ in range(3):
        clock.now += REST + 1
        ports.tick()
    assert len(kernel.pool(VIP, Protocol.TCP)) == 4
    assert kernel.taken == {}


def test_a_restart_adopts_what_is_free_and_handed_and_rests_the_others() -> None:
    kernel, clock, before = pools()
    before.use(VIP, [BLOCK], everything)
    port = kernel.pop(Protocol.TCP)
    assert port is not None
    lost = kernel.pools[VIP, Protocol.TCP].pop()
    after = PortPools(kernel, REST, clock)
    after.adopt(VIP)
    after.use(VIP, [BLOCK], nothing)
    assert after.used(BLOCK) == 1
    assert lost not in kernel.pool(VIP, Protocol.TCP)
    clock.now += REST
    after.tick()
    assert lost in kernel.pool(VIP, Protocol.TCP)


class Lives(RuleBasedStateMachine):
    """Any order of binds, closings, block changes, restarts and time."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.clock, self.ports = pools()
        self.blocks: list[PortBlock] = []
        self.closed_at: dict[tuple[Protocol, int], float] = {}

    @rule(blocks=sampled_from([[], [BLOCK], [OTHER], [BLOCK, OTHER]]))
    def lease(self, blocks: list[PortBlock]) -> None:
        self.blocks = blocks
        self.ports.use(VIP, blocks, nothing)

    @rule(protocol=sampled_from(list(Protocol)))
    def bind(self, protocol: Protocol) -> None:
        while (port := self.kernel.pop(protocol)) is not None:
            self.ports.on_handed(port.cookie, VIP, protocol, port.port)
            if any(port.port in block for block in self.blocks):
                rested = self.clock.now - self.closed_at.get((protocol, port.port), float("-inf"))
                assert rested >= REST
                break
            self.close(port)  # the kernel lets go of what is not ours

    @precondition(lambda self: self.kernel.taken)
    @rule(data=data())
    def close_one(self, data: object) -> None:
        cookie = data.draw(sampled_from(sorted(self.kernel.taken)))  # type: ignore[attr-defined]
        port = self.kernel.taken[cookie]
        self.closed_at[port.protocol, port.port] = self.clock.now
        self.close(port)

    def close(self, port: HandedPort) -> None:
        self.kernel.held.discard((port.protocol, port.port))
        self.kernel.freed(port.cookie)
        self.ports.on_freed(port.cookie, VIP, port.protocol, port.port)

    @rule(seconds=integers(1, 100))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        self.ports.tick()

    @rule()
    def restart(self) -> None:
        self.ports = PortPools(self.kernel, REST, self.clock)
        self.ports.adopt(VIP)
        self.ports.use(VIP, self.blocks, nothing)

    @invariant()
    def nothing_is_offered_twice_or_while_held(self) -> None:
        for (_, protocol), pool in self.kernel.pools.items():
            assert len(pool) == len(set(pool))
            assert not {(protocol, port) for port in pool} & self.kernel.held

    def teardown(self) -> None:
        """Nothing leaks: once all is closed and rested, every port of the blocks is free."""
        for port in list(self.kernel.taken.values()):
            self.close(port)
        for _ in range(3):
            self.wait(100)
        size = sum(block.last - block.first + 1 for block in self.blocks)
        assert self.ports.free(VIP) == size


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
