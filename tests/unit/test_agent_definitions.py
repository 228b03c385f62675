# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import ip_address

import pytest

from anyport.agent.definitions import effective
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
