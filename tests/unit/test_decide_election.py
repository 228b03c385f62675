# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyport.decide.election import elect, next_term, successor, why_no_candidate
from anyport.model import Candidacy, Definition, Distributing, Host, HostState

VIP = ip_address("192.0.2.10")
OTHER_VIP = ip_address("192.0.2.11")
DEFINITION = Definition(VIP)
NAMES = ["a", "b", "c"]


def hosts(*names: str, draining: str = "") -> dict[str, Host]:
    return {
        n: Host(
            n,
            ip_address("10.0.0.1"),
            state=HostState.DRAINING if n in draining else HostState.ACTIVE,
        )
        for n in names
    }


def candidacy(host: str, rank: int = 0, revision: int = 1) -> Candidacy:
    return Candidacy(VIP, host, rank, revision)


def tenure(host: str, term: int = 1) -> Distributing:
    return Distributing(host, term, DEFINITION, programmed_revision=0)


A, B, C = candidacy("a", 1, 30), candidacy("b", 2, 10), candidacy("c", 2, 20)
ALL = hosts(*NAMES)


def test_lowest_rank_then_oldest_candidacy() -> None:
    assert elect(DEFINITION, [C, B, A], ALL, []) == "a"
    assert elect(DEFINITION, [C, B], ALL, []) == "b"


def test_nobody() -> None:
    assert elect(DEFINITION, [], ALL, [tenure("a")]) is None


def test_only_hosts_that_are_allowed_known_and_active() -> None:
    assert elect(Definition(VIP, hosts=frozenset({"c"})), [A, B, C], ALL, []) == "c"
    assert elect(DEFINITION, [A, B, C], hosts("c"), []) == "c"
    assert elect(DEFINITION, [A, B, C], hosts(*NAMES, draining="a"), []) == "b"


def test_another_vip_has_no_say() -> None:
    other = Candidacy(OTHER_VIP, "a", 0, 1)
    elsewhere = Distributing("c", 9, Definition(OTHER_VIP), 0)
    assert elect(DEFINITION, [other, B, C], ALL, [elsewhere]) == "b"


def test_an_incumbent_stays() -> None:
    assert elect(DEFINITION, [A, B, C], ALL, [tenure("c")]) == "c"


def test_an_incumbent_that_drains_or_withdrew_hands_over() -> None:
    assert elect(DEFINITION, [A, B, C], hosts(*NAMES, draining="c"), [tenure("c")]) == "a"
    assert elect(DEFINITION, [A, B], ALL, [tenure("c")]) == "a"


def test_the_successor_is_whom_the_others_elect_once_it_is_gone() -> None:
    assert successor(DEFINITION, "a", [A, B, C], ALL) == "b"
    assert successor(DEFINITION, "a", [A, C], hosts(*NAMES, draining="b")) == "c"
    assert successor(DEFINITION, "a", [A, B], hosts(*NAMES, draining="b")) is None
    assert successor(DEFINITION, "a", [A], ALL) is None


def test_of_two_incumbents_the_highest_term_then_the_oldest_candidacy() -> None:
    assert elect(DEFINITION, [A, B, C], ALL, [tenure("a", 4), tenure("c", 5)]) == "c"
    assert elect(DEFINITION, [A, B, C], ALL, [tenure("a", 5), tenure("c", 5)]) == "c"


candidacies = st.lists(
    st.builds(candidacy, st.sampled_from(NAMES), st.integers(0, 2), st.integers(1, 9)),
    unique_by=(lambda c: c.host, lambda c: c.create_revision),
)
tenures = st.lists(
    st.builds(tenure, st.sampled_from(NAMES), st.integers(1, 3)), unique_by=lambda d: d.host
)


@settings(max_examples=1000)
@given(candidacies, tenures)
def test_every_reader_elects_the_same_and_the_elected_stays(
    candidates: list[Candidacy], incumbents: list[Distributing]
) -> None:
    elected = elect(DEFINITION, candidates, ALL, incumbents)
    assert elect(DEFINITION, candidates[::-1], ALL, incumbents[::-1]) == elected
    if elected is None:
        return
    others = [d for d in incumbents if d.host != elected]
    own = tenure(elected, next_term([d.term for d in incumbents], 0))
    assert elect(DEFINITION, candidates, ALL, [*others, own]) == elected


@given(st.lists(st.integers(0, 100)), st.integers(0, 100))
def test_terms_grow(known: list[int], revision: int) -> None:
    term = next_term(known, revision)
    assert term >= revision
    assert all(term > k for k in known)
    assert term > 0


LAN = frozenset({ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")})
ELSEWHERE = frozenset({ip_network("10.0.0.0/8"), ip_network("::/0")})


@pytest.mark.parametrize(
    ("wish", "on_link", "why_not"),
    [
        ("auto", LAN, None),
        ("auto", ELSEWHERE, "the VIP is not on-link at its LAN interface"),
        ("auto", frozenset(), "the VIP is not on-link at its LAN interface"),
        (True, ELSEWHERE, None),
        (False, LAN, "its distributor.candidate is false"),
    ],
)
def test_a_candidate_is_where_the_vip_is_on_link_unless_it_is_told_otherwise(
    wish: Any, on_link: Any, why_not: str | None
) -> None:
    assert why_no_candidate(DEFINITION, ALL["a"], wish, on_link) == why_not


def test_nobody_is_a_candidate_against_the_definition_or_without_an_address() -> None:
    allowed = Definition(VIP, hosts=frozenset({"b"}))
    assert why_no_candidate(allowed, ALL["a"], True, LAN) == "the definition leaves it out"
    vip6 = Definition(ip_address("2001:db8::10"))
    assert why_no_candidate(vip6, ALL["a"], True, LAN) == "it has no IPv6 address"
    drained = hosts("a", draining="a")["a"]
    assert why_no_candidate(DEFINITION, drained, True, LAN) == "it is drained"
