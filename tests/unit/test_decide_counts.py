# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyport.decide.counts import counts, listeners, notifications
from anyport.model import (
    ANY,
    Definition,
    Listener,
    ListenerKey,
    PortBlock,
    PortSet,
    Protocol,
    Socket,
)
from anyport.model.definition import Address, Ports

VIP = ip_address("192.0.2.10")
OTHER_VIP = ip_address("192.0.2.11")
VIP6 = ip_address("2001:db8::10")
OWN = ip_address("192.0.2.1")
ANY4 = ip_address("0.0.0.0")
ANY6 = ip_address("::")
LISTED = PortSet.parse("80/tcp,53/udp")
BLOCK = PortBlock(VIP, 40000, 40063)


def user(uid: int) -> str:
    return f"user{uid}"


def socket(
    address: Address = VIP,
    port: int = 80,
    protocol: Protocol = Protocol.TCP,
    cookie: int = 1,
    takes_ipv4: bool = True,
) -> Socket:
    return Socket(cookie, address, protocol, port, takes_ipv4=takes_ipv4)


V6ONLY = socket(ANY6, takes_ipv4=False)

# rule, ports, VIP, socket, whether it counts
TABLE: list[tuple[str, Ports, Address, Socket, bool]] = [
    ("R2: specific, any port", ANY, VIP, socket(port=12345), True),
    ("R2: specific, UDP", ANY, VIP, socket(port=12345, protocol=Protocol.UDP), True),
    ("R2: wildcard never", ANY, VIP, socket(ANY4), False),
    ("R2: IPv6 wildcard never", ANY, VIP, socket(ANY6), False),
    ("R2: the host's own address never", ANY, VIP, socket(OWN), False),
    ("R2: another VIP never", ANY, VIP, socket(OTHER_VIP), False),
    ("R3: listed, specific", LISTED, VIP, socket(), True),
    ("R3: listed, wildcard", LISTED, VIP, socket(ANY4), True),
    ("R3: listed, IPv6 wildcard that takes IPv4", LISTED, VIP, socket(ANY6), True),
    ("R3: listed, IPv6 wildcard that does not", LISTED, VIP, V6ONLY, False),
    ("R3: listed, the host's own address", LISTED, VIP, socket(OWN), False),
    ("R3: not listed, specific", LISTED, VIP, socket(port=81), False),
    ("R3: not listed, wildcard", LISTED, VIP, socket(ANY4, port=81), False),
    ("R3: listed for the other protocol", LISTED, VIP, socket(port=53), False),
    ("R7: own block, specific", LISTED, VIP, socket(port=40000), True),
    ("R7: own block, last port", LISTED, VIP, socket(port=40063), True),
    ("R7: beyond the block", LISTED, VIP, socket(port=40064), False),
    ("R7: own block, wildcard", LISTED, VIP, socket(ANY4, port=40000), False),
    ("R7: another VIP's block", LISTED, OTHER_VIP, socket(OTHER_VIP, port=40000), False),
    ("IPv6: specific", ANY, VIP6, socket(VIP6), True),
    ("IPv6: listed, wildcard", LISTED, VIP6, V6ONLY, True),
    ("IPv6: listed, IPv4 wildcard never", LISTED, VIP6, socket(ANY4), False),
]


@pytest.mark.parametrize(
    ("ports", "vip", "given_socket", "expected"), [r[1:] for r in TABLE], ids=[r[0] for r in TABLE]
)
def test_counts(ports: Ports, vip: Address, given_socket: Socket, expected: bool) -> None:
    assert counts(Definition(vip, ports), given_socket, [BLOCK]) is expected


def test_many_sockets_of_one_port_are_one_listener_of_the_oldest() -> None:
    group = [replace(socket(cookie=c), uid=c, process=f"worker{c}") for c in (7, 3, 9)]
    found = listeners("a", [Definition(VIP)], group, {}, user)
    key = ListenerKey(VIP, Protocol.TCP, 80)
    assert found == {key: Listener(VIP, Protocol.TCP, 80, "a", True, "user3", "worker3")}


def test_a_specific_socket_speaks_for_the_port_that_a_wildcard_shares() -> None:
    both = [
        replace(socket(ANY4, cookie=1), process="old"),
        replace(socket(VIP, cookie=2), process="new"),
    ]
    (found,) = listeners("a", [Definition(VIP, LISTED)], both, {}, user).values()
    assert (found.specific, found.process) == (True, "new")


def test_a_wildcard_counts_for_every_vip_that_lists_its_port() -> None:
    definitions = [Definition(VIP, LISTED), Definition(OTHER_VIP, LISTED), Definition(VIP6)]
    assert {k.vip for k in listeners("a", definitions, [socket(ANY6)], {}, user)} == {
        VIP,
        OTHER_VIP,
    }


def test_a_port_of_a_block_counts_though_another_vip_lists_it() -> None:
    """IBM PI08005: dynamic listeners lost when the same port is enumerated on another VIP."""
    definitions = [Definition(VIP, LISTED), Definition(OTHER_VIP, PortSet.parse("40000/tcp"))]
    found = listeners("a", definitions, [socket(port=40000)], {VIP: [BLOCK]}, user)
    assert {k.vip for k in found} == {VIP}


def test_a_host_that_the_definition_leaves_out_has_no_listener() -> None:
    definition = Definition(VIP, hosts=frozenset({"b"}))
    assert listeners("a", [definition], [socket()], {}, user) == {}


def test_notifications_open_first_and_close_last() -> None:
    def made(port: int, process: str = "") -> Listener:
        return Listener(VIP, Protocol.TCP, port, "a", process=process)

    have = {made(p).key: made(p) for p in (1, 2, 3)}
    want = {made(p).key: made(p, "new" if p == 2 else "") for p in (2, 3, 4)}
    sent = notifications(have, want)
    assert [(n.key.port, n.listener is None) for n in sent] == [(4, False), (2, False), (1, True)]
    assert notifications(want, want) == []


# A naive statement of the rules, one question at a time.


def naive_counts(definition: Definition, s: Socket, blocks: Iterable[PortBlock]) -> bool:
    to_vip = s.address == definition.vip
    wildcard = s.address == ANY4 or (s.address == ANY6 and s.takes_ipv4)
    if definition.ports is ANY:
        return to_vip
    listed = definition.ports.contains(s.protocol, s.port)
    unique = any(b.first <= s.port <= b.last for b in blocks if b.vip == definition.vip)
    return (listed and (to_vip or wildcard)) or (unique and to_vip)


sockets = st.builds(
    Socket,
    cookie=st.integers(1, 50),
    address=st.sampled_from([VIP, OTHER_VIP, OWN, ANY4, ANY6]),
    protocol=st.sampled_from(Protocol),
    port=st.sampled_from([53, 80, 40000, 40064]),
    uid=st.integers(0, 2),
    takes_ipv4=st.booleans(),
)
port_choices = st.sampled_from(
    [ANY, LISTED, PortSet.parse("80,40000"), PortSet.parse("1-65535/udp")]
)
definition_lists = st.lists(
    st.builds(
        Definition,
        vip=st.sampled_from([VIP, OTHER_VIP]),
        ports=port_choices,
        hosts=st.sampled_from([None, None, frozenset({"a"}), frozenset({"b"})]),
    ),
    unique_by=lambda d: d.vip,
)
block_maps = st.sampled_from([{}, {VIP: [BLOCK]}, {OTHER_VIP: [replace(BLOCK, vip=OTHER_VIP)]}])


@settings(max_examples=3000)
@given(definition_lists, st.lists(sockets, unique_by=lambda s: s.cookie), block_maps)
def test_listeners_are_what_the_rules_say(
    definitions: list[Definition],
    opened: list[Socket],
    blocks: dict[Address, list[PortBlock]],
) -> None:
    found = listeners("a", definitions, opened, blocks, user)
    expected: dict[ListenerKey, list[Socket]] = {}
    for d in definitions:
        for s in opened:
            if d.allows("a") and naive_counts(d, s, blocks.get(d.vip, [])):
                expected.setdefault(ListenerKey(d.vip, s.protocol, s.port), []).append(s)
    assert found.keys() == expected.keys()
    for key, group in expected.items():
        assert found[key].specific == any(s.address == key.vip for s in group)


keys = st.builds(ListenerKey, st.just(VIP), st.sampled_from(Protocol), st.integers(1, 6))
tables = st.dictionaries(keys, st.sampled_from(["x", "y"])).map(
    lambda d: {k: Listener(k.vip, k.protocol, k.port, "a", process=p) for k, p in d.items()}
)


@settings(max_examples=1000)
@given(tables, tables)
def test_notifications_lead_from_have_to_want(
    have: dict[ListenerKey, Listener], want: dict[ListenerKey, Listener]
) -> None:
    told: dict[ListenerKey, Listener | None] = {**have}
    sent = notifications(have, want)
    for notification in sent:
        told[notification.key] = notification.listener
    assert {k: v for k, v in told.items() if v is not None} == want
    assert len(sent) == len({n.key for n in sent})


def test_every_port_at_once() -> None:
    everything = PortSet.of(tcp=[(p, p) for p in range(1, 65536, 2)])
    opened = [socket(ANY4, port=p, cookie=p) for p in range(1, 65536)]
    definitions = [Definition(VIP, everything), Definition(OTHER_VIP)]
    assert len(listeners("a", definitions, opened, {}, user)) == 32768
