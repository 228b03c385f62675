# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyport.decide.routes import BlockIndex, route, routes
from anyport.model import (
    ANY,
    Claim,
    Cluster,
    Definition,
    Distributed,
    Host,
    HostState,
    Listener,
    PortBlock,
    PortKey,
    PortSet,
    Protocol,
    Route,
    Target,
    Unique,
)

VIP = ip_address("192.0.2.10")
TCP80: PortKey = (Protocol.TCP, 80)
LISTED = PortSet.parse("80/tcp")
OTHER_LISTED = PortSet.parse("81")
HOSTS = {n: Host(n, ip_address("10.0.0.1"), weight=w) for n, w in [("a", 1), ("b", 2), ("c", 3)]}
DRAINING = {**HOSTS, "b": replace(HOSTS["b"], state=HostState.DRAINING)}


def heard(*hosts: str, specific: bool = True, key: PortKey = TCP80) -> dict[str, Listener]:
    return {h: Listener(VIP, *key, host=h, specific=specific) for h in hosts}


def to(*hosts: str) -> Distributed:
    return Distributed(tuple(Target(h, HOSTS[h].weight) for h in hosts))


# what, listeners, definition, hosts, block owner, route
TABLE: list[tuple[str, dict[str, Listener], Definition, dict[str, Host], str | None, Route | None]]
TABLE = [
    ("R5: all that listen", heard("c", "a"), Definition(VIP), HOSTS, None, to("a", "c")),
    ("R8: nobody listens", {}, Definition(VIP), HOSTS, None, None),
    ("an unknown host", heard("a", "x"), Definition(VIP), HOSTS, None, to("a")),
    ("a draining host", heard("a", "b"), Definition(VIP), DRAINING, None, to("a")),
    (
        "a host left out",
        heard("a", "b"),
        Definition(VIP, hosts=frozenset({"b"})),
        HOSTS,
        None,
        to("b"),
    ),
    ("R2: a late wildcard", heard("a", specific=False), Definition(VIP), HOSTS, None, None),
    ("R3: wildcard", heard("a", specific=False), Definition(VIP, LISTED), HOSTS, None, to("a")),
    (
        "R3: no longer listed",
        heard("a"),
        Definition(VIP, OTHER_LISTED),
        HOSTS,
        None,
        None,
    ),
    ("R7: before its listener", {}, Definition(VIP), HOSTS, "c", Unique("c")),
    ("R7: not the owner's listener", heard("a"), Definition(VIP), HOSTS, "c", Unique("c")),
    ("R7: on an enumerated VIP", {}, Definition(VIP, OTHER_LISTED), HOSTS, "c", Unique("c")),
    ("R7: the owner's lease is lost", {}, Definition(VIP), HOSTS, "x", Unique("x")),
    (
        "R7: an owner left out",
        heard("a"),
        Definition(VIP, hosts=frozenset({"a"})),
        HOSTS,
        "c",
        None,
    ),
]


@pytest.mark.parametrize(
    ("listeners", "definition", "hosts", "owner", "expected"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_route(
    listeners: dict[str, Listener],
    definition: Definition,
    hosts: dict[str, Host],
    owner: str | None,
    expected: Route | None,
) -> None:
    assert route(TCP80, listeners, definition, hosts, owner) == expected


def claim(host: str, first: int, last: int, revision: int) -> Claim:
    return Claim(PortBlock(VIP, first, last), host, revision)


def test_a_draining_host_keeps_its_flows_of_datagrams() -> None:
    udp53: PortKey = (Protocol.UDP, 53)
    found = route(udp53, heard("a", "b", key=udp53), Definition(VIP), DRAINING, None)
    assert found == replace(to("a"), keeping=("b",))


def test_block_index() -> None:
    index = BlockIndex([claim("a", 10, 19, 1), claim("b", 15, 24, 2), claim("c", 20, 20, 3)], VIP)
    assert [index.owner(p) for p in (9, 10, 19, 20, 21)] == [None, "a", "a", "c", None]
    assert list(index.ports()) == list(range(10, 21))


def test_a_block_is_in_the_table_for_both_protocols() -> None:
    block = PortBlock(VIP, 40000, 40001)
    cluster = Cluster(1, {}, HOSTS, {}, {("a", block): Claim(block, "a", 1)}, {}, {})
    assert routes(cluster, Definition(VIP)) == {
        (protocol, port): Unique("a") for protocol in Protocol for port in (40000, 40001)
    }


ports = st.sampled_from([79, 80, 81, 82, 90])
keys = st.tuples(st.sampled_from(Protocol), ports)
listeners_by_port = st.dictionaries(
    keys, st.dictionaries(st.sampled_from(["a", "b", "c", "x"]), st.booleans(), min_size=1)
)
claim_lists = st.lists(
    st.builds(
        lambda host, first, length, revision: claim(host, first, first + length, revision),
        st.sampled_from(["a", "b", "x"]),
        st.integers(78, 84),
        st.integers(0, 3),
        st.integers(1, 20),
    ),
    unique_by=lambda c: c.create_revision,
)
definitions = st.builds(
    Definition,
    st.just(VIP),
    st.sampled_from([ANY, LISTED, PortSet.parse("79-82")]),
    hosts=st.sampled_from([None, frozenset({"a", "x"})]),
)


@settings(max_examples=2000)
@given(listeners_by_port, claim_lists, definitions, st.sampled_from([HOSTS, DRAINING]))
def test_each_entry_of_the_table_is_the_route_of_its_port(
    notified: dict[PortKey, dict[str, bool]],
    claims: list[Claim],
    definition: Definition,
    hosts: dict[str, Host],
) -> None:
    listeners = {
        key: {h: Listener(VIP, *key, host=h, specific=s) for h, s in by_host.items()}
        for key, by_host in notified.items()
    }
    by_block = {(c.host, c.block): c for c in claims}
    cluster = Cluster(1, {}, hosts, {VIP: listeners}, by_block, {}, {})
    table = routes(cluster, definition)
    index = BlockIndex(by_block.values(), VIP)
    for key in [(protocol, port) for protocol in Protocol for port in range(76, 92)]:
        single = route(key, listeners.get(key, {}), definition, hosts, index.owner(key[1]))
        assert table.get(key) == single


def test_a_full_table() -> None:
    listeners = {
        (p, port): heard("a", "b", "c", key=(p, port)) for p in Protocol for port in range(1, 65536)
    }
    cluster = Cluster(1, {}, HOSTS, {VIP: listeners}, {}, {}, {})
    assert len(routes(cluster, Definition(VIP))) == 2 * 65535
