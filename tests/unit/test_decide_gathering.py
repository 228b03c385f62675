# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from anyport.decide.gathering import MOST_PIECES, asked, is_asked, is_whole, missing, pieces
from anyport.model import Cluster, ConnectionsPiece, Definition, Distributing, Host, HostState
from anyport.model.definition import Address

VIP, VIP6 = ip_address("10.0.0.100"), ip_address("2001:db8::1")
ROW = 8


def host(name: str, address: str = "10.0.0.1", state: HostState = HostState.ACTIVE) -> Host:
    return Host(name, ip_address(address), state=state)


HOSTS = {
    "a": host("a"),
    "drained": host("drained", state=HostState.DRAINING),
    "both": Host("both", IPv4Address("10.0.0.3"), address6=IPv6Address("2001:db8::3")),
}


def cluster(said: dict[tuple[Address, str], dict[int, ConnectionsPiece]]) -> Cluster:
    return Cluster(9, {}, HOSTS, {}, {}, {}, {}, connections=said)


def test_asked_is_who_may_have_connections() -> None:
    assert asked(Definition(VIP), HOSTS) == {"a", "drained", "both"}
    assert asked(Definition(VIP6), HOSTS) == {"both"}
    assert asked(Definition(VIP, hosts=frozenset({"a", "gone"})), HOSTS) == {"a"}


def test_a_host_answers_if_it_is_asked() -> None:
    def published(definition: Definition, gathering: bool = True) -> Distributing:
        return Distributing("d", 3, definition, 0, gathering=gathering)

    assert is_asked("a", {4}, published(Definition(VIP)))
    assert not is_asked("a", {4}, published(Definition(VIP), gathering=False))
    assert not is_asked("a", {4}, published(Definition(VIP6)))
    assert not is_asked("a", {4}, published(Definition(VIP, hosts=frozenset({"b"}))))


@given(st.integers(0, 40), st.integers(1, 5))
def test_pieces_hold_all_rows_once(rows: int, rows_a_piece: int) -> None:
    said = bytes(i % 251 for i in range(rows * ROW))
    made = pieces("a", 7, said, rows_a_piece * ROW)
    assert b"".join(piece.rows for piece in made) == said
    assert {(piece.host, piece.term, piece.pieces) for piece in made} == {("a", 7, len(made))}
    assert all(len(piece.rows) % ROW == 0 for piece in made)
    assert is_whole(dict(enumerate(made)), 7)
    for left_out in range(len(made)):
        assert not is_whole({n: p for n, p in enumerate(made) if n != left_out}, 7)


def test_more_than_fits_is_left_out() -> None:
    made = pieces("a", 7, bytes(ROW * (MOST_PIECES + 3)), ROW)
    assert len(made) == MOST_PIECES
    assert is_whole(dict(enumerate(made)), 7)


def test_an_answer_to_another_term_is_none() -> None:
    """IBM PM76274: nothing is taken from an older distributor's time."""
    former = dict(enumerate(pieces("a", 6, bytes(3 * ROW), ROW)))
    assert not is_whole(former, 7)
    assert not is_whole({}, 7)
    now = dict(enumerate(pieces("a", 7, bytes(2 * ROW), ROW)))
    assert is_whole(former | now, 7)  # the third is of the former answer
    torn = {0: ConnectionsPiece("a", 7, 2), 1: ConnectionsPiece("a", 7, 3)}
    assert not is_whole(torn, 7)


def test_missing_are_those_that_are_there_and_have_not_said_all() -> None:
    whole = {0: ConnectionsPiece("a", 7, 1)}
    half = {0: ConnectionsPiece("both", 7, 2)}
    said: dict[tuple[Address, str], dict[int, ConnectionsPiece]] = {
        (VIP, "a"): whole,
        (VIP, "both"): half,
        (VIP, "gone"): half,
        (VIP6, "drained"): whole,
    }
    assert missing(VIP, 7, Definition(VIP), cluster(said)) == {"both", "drained"}
    assert missing(VIP, 8, Definition(VIP), cluster(said)) == set(HOSTS)
