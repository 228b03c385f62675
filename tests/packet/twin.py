# SPDX-License-Identifier: Apache-2.0
"""The program and the reference model, side by side: what one does the other does."""

from __future__ import annotations

import contextlib
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

from anyport.decide.rows import MAX_HOSTS, NO_HOP, HostRow
from anyport.kernel import abi
from anyport.kernel.connections import ConnectionRow
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.packet import world as w
from tests.packet.hooks import NO_SLOT, meet
from tests.packet.reference.tables import NO_ROUTE
from tests.packet.reference.world import ModelWorld
from tests.packet.world import VIP, VIPS, World
from tests.support.netns import fresh_netns, run

EXTRA = IPv4Address(VIP + 1)
"""A VIP that is there in some sequences."""
EXTRA_ROW = 3
ROWS = {**VIPS, EXTRA: EXTRA_ROW}
LAST_SLOT = 63
LAST_PORT = 65535
"""Both are used besides those of the world."""
SELECTIONS = range(6)
_TICK = (1 << abi.TICK_SHIFT) / 1e9

Connection = tuple[int, int, Address, int, int, int, int]
"""Row of the VIP, protocol, client, its port, port, slot, state."""
Counted = tuple[int | None, int | None, str]
"""Row of the VIP, slot of the host, verdict."""


class DiffersError(AssertionError):
    """The program from the model."""


class StalledError(Exception):
    """Between one and the other so much time went by that they may judge silences apart."""


STALL = 0.5
"""Seconds; a fragment is old after 2."""


class Twin:
    def __init__(self, program: World) -> None:
        """`program`: runs packets by the hook that is to be compared."""
        self.program = program
        program.counted_slots = range(MAX_HOSTS)
        self.model = ModelWorld()
        self.expected = Counter[Counted]()
        """By how much the program's counters should have moved since count()."""
        self._counted = Counter[Counted]()
        self._stale = True
        """What the daemon writes may move what was counted to another place."""

    def reset(self) -> None:
        """As in the beginning, so that no sequence depends on those before."""
        self.model = ModelWorld()
        self.change(_reset)
        self.count()

    def change(self, do: Callable[[World], object]) -> None:
        self._stale = True
        do(self.program)
        do(self.model)

    def send(self, frame: bytes, context: bytes = b"") -> None:
        """And what it releases, in the order in which the kernel would put it back."""
        if self._stale:
            self.count()
        self.fire(frame, context)
        self.compare_counters()
        for again in self.model.decision.released:
            self.send(again, context)

    def fire(self, frame: bytes, context: bytes = b"") -> None:
        """As send, but asks no counters, which takes longer than all the rest."""
        began = time.monotonic()
        expected, decision = self.model.run(frame, context), self.model.decision
        met = meet(self.program, frame, context)
        if time.monotonic() - began > STALL:
            raise StalledError
        if met.counted:
            self.expected[expected.row, expected.slot, expected.verdict] += 1
        agreed = (
            met.out == (expected.out if met.counted else frame)
            and met.action in (None, expected.action)
            and met.verdict in (None, decision.chosen or expected.verdict)
            and met.slot in (None, NO_SLOT if decision.slot is None else decision.slot)
        )
        if not agreed:
            raise DiffersError(f"{frame.hex()}\nprogram: {met}\nmodel:   {decision}, {expected}")

    def count(self) -> None:
        self._begin(self._counts())

    def compare_counters(self) -> None:
        """Each packet was counted once: for its VIP and its host, under its verdict."""
        counted = self._counts()
        moved = counted - self._counted
        if moved != self.expected:
            more, less = moved - self.expected, self.expected - moved
            raise DiffersError(f"counted: {dict(more)} instead of {dict(less)}")
        self._begin(counted)

    def _counts(self) -> Counter[Counted]:
        counts = self.program.counts().items()
        return Counter(
            {
                (
                    None if row == abi.NO_ROW else row,
                    None if slot == abi.NO_SLOT else slot,
                    verdict.name.lower(),
                ): packets
                for (row, slot, verdict), (packets, _) in counts
            }
        )

    def _begin(self, counted: Counter[Counted]) -> None:
        self._counted, self._stale = counted, False
        self.expected.clear()

    def age(self, seconds: float) -> None:
        """As if all packets so far had come so much earlier."""
        self.model.model.age(seconds)
        _age_connections(self.program, seconds)
        _age_fragments(self.program, seconds)

    def compare_tables(self) -> None:
        """What is remembered, and which VIPs are fenced."""
        found, expected = connections(self.program), known(self.model)
        assert found == expected, f"only here: {found - expected}; missing: {expected - found}"
        for row in ROWS.values():
            assert self.program.kernel.fenced(row) == self.model.kernel.fenced(row), row


@contextlib.contextmanager
def fresh_twin(hook: str = "tc") -> Iterator[Twin]:
    """Not where there is a loopback that is up: the program puts back what it releases."""
    with fresh_netns():
        run("ip", "link", "set", "lo", "down")
        world = World(hook=hook)
        try:
            yield Twin(world)
        finally:
            world.close()


def is_run(frame: bytes) -> bool:
    """BPF_PROG_RUN refuses frames without the IP header that their type promises."""
    least = {b"\x08\x00": 34, b"\x86\xdd": 54}
    return len(frame) >= least.get(frame[12:14], 14)


def _reset(world: World) -> None:
    for index in SELECTIONS:
        world.kernel.set_selection(index, 0, [])
    world.kernel.set_host(LAST_SLOT, HostRow(NO_HOP, NO_HOP, 0))
    world.kernel.delete_vip(EXTRA)
    world.kernel.clear_routes(EXTRA_ROW)
    for protocol in Protocol:
        world.route(w.CLOSED, NO_ROUTE, protocol)
        world.route(LAST_PORT, NO_ROUTE, protocol)
    world.furnish()
    world.forget()
    world.kernel.unfence(EXTRA_ROW)


def known(world: ModelWorld) -> set[Connection]:
    return {
        (row, f.protocol, f.client, f.client_port, f.port, c.slot, c.state)
        for (row, f), c in world.model.connections.known.items()
    }


def connections(world: World) -> set[Connection]:
    rows: list[ConnectionRow] = list(world.kernel.table.rows(lambda row: _row_as_address(row)))
    return {
        (int(c.vip), c.protocol, c.client, c.client_port, c.port, c.slot, c.state) for c in rows
    }


def _row_as_address(row: int) -> Address:
    """The table knows rows; which VIP has one, the daemon knows."""
    return IPv4Address(row)


def _age_connections(world: World, seconds: float) -> None:
    table = world.kernel.table.map
    for key, raw in table.items():
        if any(raw):
            bucket = abi.Bucket.from_buffer_copy(raw)
            for entry in bucket.ways:
                _age_entry(entry, round(seconds / _TICK))
            table.update(key, bytes(bucket))


def _age_entry(entry: abi.Connection, ticks: int) -> None:
    mask = (1 << abi.SEEN_BITS) - 1
    entry.life = entry.life & ~mask | (entry.life - ticks) & mask


def _age_fragments(world: World, seconds: float) -> None:
    """struct fragment_place begins with when the last one came."""
    places = world.kernel._maps["fragments"]
    for key, value in places.items():
        (seen,) = struct.unpack_from("=Q", value)
        places.update(key, struct.pack("=Q", seen - round(seconds * 1e9)) + value[8:])
