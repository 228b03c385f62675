# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anyport.decide.blocks import (
    MOST_NAMED,
    BlockPolicy,
    as_published,
    handout_blocks,
    next_block,
    owners,
    refuse,
    refused_by,
    rested,
    surrenderable,
    wanted_size,
)
from anyport.model import Claim, Definition, Distributing, PortBlock, PortSet

VIP = ip_address("192.0.2.10")
OTHER_VIP = ip_address("192.0.2.11")
DEFINITION = Definition(VIP)
FIRST, LAST = 100, 163


def claim(host: str, first: int, last: int, revision: int, vip: object = VIP) -> Claim:
    return Claim(PortBlock(vip, first, last), host, revision)  # type: ignore[arg-type]


def published(revision: int, definition: Definition = DEFINITION) -> Distributing:
    return Distributing("d", 1, definition, revision)


def place(
    claims: Collection[Claim] = (),
    taken: Collection[int] = (),
    size: int = 16,
    host: str = "a",
    definition: Definition = DEFINITION,
) -> PortBlock | None:
    return next_block(definition, claims, taken, host=host, size=size, first=FIRST, last=LAST)


blocks = st.builds(
    lambda vip, first, length: PortBlock(vip, first, first + length - 1),
    st.sampled_from([VIP, VIP, OTHER_VIP]),
    st.integers(FIRST, LAST - 16),
    st.sampled_from([1, 4, 16]),
)
claim_lists = st.lists(
    st.builds(Claim, blocks, st.sampled_from(["a", "b", "c"]), st.integers(1, 50)),
    unique_by=lambda c: c.create_revision,
)
port_sets = st.sets(st.integers(FIRST - 5, LAST + 5), max_size=30)


def test_the_older_claim_owns() -> None:
    old, young = claim("a", 100, 115, 5), claim("b", 110, 125, 6)
    assert owners([young, old]) == (old,)


def test_a_claim_beaten_by_a_beaten_one_owns() -> None:
    first, second, third = claim("a", 100, 110, 1), claim("b", 105, 120, 2), claim("c", 115, 130, 3)
    assert owners([first, second, third]) == (first, third)


def test_claims_on_different_vips_do_not_meet() -> None:
    both = claim("a", 100, 110, 1), claim("b", 100, 110, 2, OTHER_VIP)
    assert owners(both) == both


@settings(max_examples=2000)
@given(claim_lists)
def test_owners(claims: list[Claim]) -> None:
    owning = owners(claims)
    assert owners(claims[::-1]) == owning, "every reader resolves alike"
    for c in claims:
        older = [o for o in owning if o.create_revision < c.create_revision]
        assert (c in owning) == (not any(o.block.overlaps(c.block) for o in older))


def test_only_programmed_blocks_are_handed_out() -> None:
    claims = [claim("a", 100, 115, 5), claim("a", 116, 131, 8), claim("b", 132, 147, 6)]
    assert handout_blocks(claims, "a", published(7)) == (claims[0].block,)
    assert handout_blocks(claims, "a", published(8)) == (claims[0].block, claims[1].block)
    assert handout_blocks(claims, "a", None) == ()


def test_a_beaten_or_enumerated_block_is_not_handed_out() -> None:
    claims = [claim("b", 100, 115, 5), claim("a", 110, 125, 6), claim("a", 126, 130, 7)]
    assert handout_blocks(claims, "a", published(9)) == (claims[2].block,)
    listed = Definition(VIP, PortSet.parse("128/udp"))
    assert handout_blocks(claims, "a", published(9, listed)) == ()


def test_a_host_left_out_hands_nothing_out() -> None:
    """Nothing is routed to it: what it handed out would not be reachable."""
    elsewhere = Definition(VIP, hosts=frozenset({"b"}))
    assert handout_blocks([claim("a", 100, 115, 5)], "a", published(9, elsewhere)) == ()


def test_surrendered_are_the_beaten_and_the_unwanted_once_unused() -> None:
    claims = [claim("b", 100, 115, 5), claim("a", 110, 125, 6), claim("a", 126, 130, 7)]
    assert surrenderable(claims, "a", DEFINITION, ()) == (claims[1],)
    listed = Definition(VIP, PortSet.parse("128/udp"))
    assert surrenderable(claims, "a", listed, [130]) == (claims[1],)
    assert surrenderable(claims, "a", listed, [131]) == (claims[1], claims[2])
    elsewhere = Definition(VIP, hosts=frozenset({"b"}))
    assert surrenderable(claims, "a", elsewhere, ()) == (claims[1], claims[2])
    assert surrenderable(claims, "b", elsewhere, ()) == ()


def test_next_block_shrinks_to_what_is_left() -> None:
    assert place(taken=range(FIRST, LAST - 3)) == PortBlock(VIP, LAST - 3, LAST)
    assert place(taken=range(FIRST, LAST)) == PortBlock(VIP, LAST, LAST)
    assert place(taken=range(FIRST, LAST + 1)) is None


def test_hosts_begin_at_different_places() -> None:
    chosen = {place(host=f"host{n}") for n in range(20)}
    assert len(chosen) == 4, "all that there are"


def test_blocks_leave_no_gaps() -> None:
    claims: list[Claim] = []
    for n in range(4):
        block = place(claims, host=f"host{n}")
        assert block is not None
        claims.append(Claim(block, f"host{n}", n + 1))
    assert len(owners(claims)) == 4
    assert place(claims) is None


@settings(max_examples=2000)
@given(claim_lists, port_sets, st.integers(1, 40), st.sampled_from(["a", "b"]))
def test_next_block_never_overlaps(
    claims: list[Claim], taken: set[int], size: int, host: str
) -> None:
    definition = Definition(VIP, PortSet.of(tcp=[(104, 107)], udp=[(140, 140)]))
    forbidden = taken | {104, 105, 106, 107, 140}
    forbidden |= {
        p for c in claims if c.block.vip == VIP for p in range(FIRST, LAST + 1) if p in c.block
    }
    free = set(range(FIRST, LAST + 1)) - forbidden
    block = place(claims, taken, size, host, definition)
    if block is None:
        assert not free
        return
    ports = set(range(block.first, block.last + 1))
    assert ports <= free
    assert len(ports) <= size
    if len(ports) < size:
        runs = (set(range(p, p + size)) for p in free)
        assert not any(run <= free for run in runs)
    assert place(claims, taken, size, host, definition) == block


@pytest.mark.parametrize(
    ("free", "used", "size"),
    [(0, 0, 64), (15, 49, 64), (16, 48, 0), (0, 64, 64), (0, 65, 128), (3, 5000, 1024)],
)
def test_blocks_grow_with_demand(free: int, used: int, size: int) -> None:
    assert wanted_size(free, used, BlockPolicy()) == size


def test_demand_is_met_in_few_blocks() -> None:
    """OA/PI06006-like leaks apart, 28,000 ports must not need hundreds of claims."""
    policy, total, claims = BlockPolicy(largest=8192), 0, 0
    while total < 28000:
        total += wanted_size(0, total, policy)
        claims += 1
    assert claims <= 12


@given(st.dictionaries(st.integers(1, 9), st.integers(0, 100)), st.integers(0, 100))
def test_rested(freed_at: dict[int, int], rest: int) -> None:
    assume(freed_at)
    ports = rested(freed_at, 100, rest)
    assert ports == sorted(ports)
    assert set(ports) == {p for p, since in freed_at.items() if since + rest <= 100}


def test_a_claim_on_a_live_connection_of_another_host_is_refused() -> None:
    """Never a block with a live connection: its packets would go to the block's owner."""
    theirs = Claim(PortBlock(VIP, 40000, 40063), "b", 12)
    elsewhere = Claim(PortBlock(VIP, 40064, 40127), "b", 13)
    live = [(40001, "a"), (40070, "b"), (40200, "a")]
    assert refuse([theirs, elsewhere], live, after=11) == {12}
    assert refuse([theirs, elsewhere], live, after=12) == frozenset()
    assert surrenderable([theirs, elsewhere], "b", Definition(VIP), (), {12}) == (theirs,)
    granted = Distributing("a", 1, Definition(VIP), 13, frozenset({12}))
    assert handout_blocks([theirs, elsewhere], "b", granted) == (elsewhere.block,)


def test_of_a_host_with_many_refused_claims_the_oldest_are_named() -> None:
    """And none of the rest is handed out, nor forgotten when a distributor reads it again."""
    greedy = [Claim(PortBlock(VIP, 40000 + n, 40000 + n), "b", 20 + 2 * n) for n in range(100)]
    early = Claim(PortBlock(VIP, 50000, 50063), "b", 5)
    modest = [Claim(PortBlock(VIP, 51000 + n, 51000 + n), "c", 21 + 2 * n) for n in range(2)]
    claims = [*greedy, early, *modest]
    refused = {claim.create_revision for claim in [*greedy, modest[0]]}
    named, limits = as_published(claims, refused)
    assert named == {c.create_revision for c in [*greedy[:MOST_NAMED], modest[0]]}
    published = Distributing("a", 1, Definition(VIP), 999, named, limits)
    assert handout_blocks(claims, "b", published) == (early.block,)
    assert handout_blocks(claims, "c", published) == (modest[1].block,)
    assert refused_by(published, claims) == refused
    # It gives back what is named, and hears of the next.
    claims = [claim for claim in claims if claim.create_revision not in named]
    assert handout_blocks(claims, "b", published) == (early.block,)
    named, limits = as_published(claims, refused)
    assert min(named) == greedy[MOST_NAMED].create_revision


@given(st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)), st.integers(1, 40))
def test_a_publication_refuses_all_that_is_refused(
    of_b: set[int], refused: set[int], programmed: int
) -> None:
    claims = [
        Claim(PortBlock(VIP, 40000 + r, 40000 + r), "b" if r in of_b else "c", r)
        for r in range(1, 41)
    ]
    named, limits = as_published(claims, refused)
    published = Distributing("a", 1, Definition(VIP), programmed, named, limits)
    granted = [b for host in "bc" for b in handout_blocks(claims, host, published)]
    assert not {block.first - 40000 for block in granted} & refused
    assert refused <= refused_by(published, claims)
    if len(refused) <= MOST_NAMED:
        assert {b.first - 40000 for b in granted} == set(range(1, programmed + 1)) - refused
