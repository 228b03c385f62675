# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from anyport.agent.definitions import effective, present_distributor
from anyport.model import Cluster, Definition, Distributing

FOUR, SIX = Definition(ip_address("192.0.2.80")), Definition(ip_address("2001:db8::80"))
PUBLISHED = {(d.vip, "a"): Distributing("a", 1, d, 1) for d in (FOUR, SIX)}
CLUSTER = Cluster(1, {d.vip: d for d in (FOUR, SIX)}, {}, {}, {}, {}, PUBLISHED)


@pytest.mark.parametrize(("versions", "held"), [({4, 6}, [FOUR, SIX]), ({4}, [FOUR]), ({6}, [SIX])])
def test_a_host_takes_part_in_the_families_that_it_has_an_address_of(
    versions: set[int], held: list[Definition]
) -> None:
    definitions = {d.vip: d for d in held}
    assert effective(CLUSTER, "b", versions, {}) == (definitions, {})
    assert effective(CLUSTER, "b", versions, CLUSTER.definitions) == (definitions, {})


def test_what_the_operator_has_not_defined_is_no_host_s_to_publish() -> None:
    """A hostile host would put any address on every `lo`. One that is there stays till it is
    withdrawn: the operator has deleted it."""
    undefined = replace(CLUSTER, definitions={})
    assert effective(undefined, "b", {4, 6}, {}) == ({}, {})
    assert effective(undefined, "b", {4, 6}, CLUSTER.definitions)[0] == CLUSTER.definitions


def test_a_host_that_is_left_out_outbids_nobody() -> None:
    wish = replace(FOUR, hosts=frozenset({"a", "b"}))
    a, stranger = Distributing("a", 3, wish, 1), Distributing("c", 9, FOUR, 1)
    cluster = replace(
        CLUSTER,
        definitions={wish.vip: wish},
        distributing={(wish.vip, d.host): d for d in (a, stranger)},
    )
    assert present_distributor(cluster, wish.vip) == a
    # It may be the former distributor, until another is elected.
    alone = replace(cluster, distributing={(wish.vip, "c"): stranger})
    assert present_distributor(alone, wish.vip) == stranger
