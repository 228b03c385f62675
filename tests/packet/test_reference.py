# SPDX-License-Identifier: Apache-2.0
"""The reference model: it says what the tables say, and the program says what it says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, given, reject, settings

from anyport.decide.rows import RouteKind, RouteRow
from anyport.model import Protocol
from anyport.model.definition import Address
from tests.fuzz.corpus import TABLES
from tests.packet import world as w
from tests.packet.cases import Case
from tests.packet.reference.world import ModelWorld
from tests.packet.steps import STEPS, Step
from tests.packet.twin import StalledError, Twin, fresh_twin
from tests.packet.world import World
from tests.support.packets import ACK, FIN, RST, SYN

CASES = [case for table in TABLES for case in table.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_the_model_says_what_the_tables_say(case: Case) -> None:
    world = ModelWorld()
    if case.setup is not None:
        case.setup(world)
    outcome = world.run(case.frame)
    assert (outcome.verdict, outcome.action) == (case.verdict, case.action)
    assert outcome.out.hex() == (case.frame if case.out is None else case.out).hex()


@pytest.fixture(scope="module", params=["tc", "xdp"])
def twin(request: pytest.FixtureRequest) -> Iterator[Twin]:
    with fresh_twin(request.param) as twin:
        yield twin


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_the_program_says_what_the_model_says(twin: Twin, steps: list[Step]) -> None:
    """Verdict, target, exact bytes, and whom the connections are with; whatever happened before."""
    twin.reset()
    try:
        for step in steps:
            step.do(twin)
    except StalledError:
        reject()
    twin.compare_tables()


PASTS = [(SYN,), (SYN, ACK), (SYN, ACK, FIN | ACK), (SYN, RST), (SYN, ACK, FIN | ACK, SYN), (ACK,)]
ROUTES = [
    w.distributed(1, w.A),
    w.distributed(3, w.HERE),
    RouteRow(RouteKind.UNIQUE, w.B, w.mask(w.B)),
    RouteRow(RouteKind.NONE),
]
DATAGRAM = None
"""Instead of flags."""
Life = tuple[tuple[int | None, ...], int | None]
LIVES: list[Life] = [
    *itertools.product(PASTS, (SYN, ACK, FIN | ACK, RST)),
    ((DATAGRAM,), DATAGRAM),
    ((DATAGRAM, DATAGRAM), DATAGRAM),
]
"""The client's flags before the silence, and behind it."""
SILENCES = [0, 50, 75, 125]
"""Seconds: around LIVELY, and the idle time of UDP that is set here."""


@pytest.mark.parametrize("silence", SILENCES)
@pytest.mark.parametrize("row", ROUTES, ids=["target", "lost", "unique", "none"])
def test_after_a_silence(twin: Twin, row: RouteRow, silence: int) -> None:
    """What each flow's next packet meets, whatever came before, however long ago.

    All within a moment: program and model count 2 s to the tick and to the nanosecond.
    """
    twin.reset()
    for vip, index in w.VIPS.items():
        twin.change(partial(_set_idle, vip, index))
    flows = list(enumerate(itertools.product(w.VIPS, LIVES), 5000))
    for port, (vip, (past, _)) in flows:
        for word in past:
            twin.fire(_frame(vip, port, word))
    twin.age(silence)
    for protocol in Protocol:
        twin.change(partial(_set_route, row, protocol))
    twin.count()
    for port, (vip, (_, following)) in flows:
        twin.fire(_frame(vip, port, following))
        twin.fire(_frame(vip, port, following))
    twin.compare_counters()
    twin.compare_tables()


def _frame(vip: Address, client_port: int, flags: int | None) -> bytes:
    if flags is None:
        return w.datagram(w.ONLY_A, client_port, vip=vip)
    return w.segment(w.ONLY_A, flags, client_port, vip=vip)


def _set_idle(vip: Address, index: int, world: World) -> None:
    world.kernel.set_vip(vip, index, w.MAC, 90)


def _set_route(row: RouteRow, protocol: Protocol, world: World) -> None:
    world.route(w.ONLY_A, row, protocol)
