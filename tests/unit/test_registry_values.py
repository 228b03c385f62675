# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyport.decide.blocks import MOST_NAMED
from anyport.decide.gathering import MOST_PIECES, MOST_ROW_BYTES
from anyport.decide.rows import MAX_HOSTS
from anyport.kernel.abi import GATHERED_BYTES
from anyport.kernel.own_connections import row_bytes
from anyport.model import (
    Candidacy,
    Claim,
    ConnectionsPiece,
    Definition,
    Distributing,
    Drain,
    Heartbeat,
    Host,
    HostState,
    Listener,
    Method,
    PathWish,
    PortBlock,
    PortSet,
    Protocol,
    Remaining,
    Void,
)
from anyport.model.definition import MAX_DEFINITION_SIZE
from anyport.registry.keys import (
    CandidacyKey,
    ClaimKey,
    ConnectionsKey,
    DefinitionKey,
    DistributingKey,
    DrainKey,
    HeartbeatKey,
    HostKey,
    Key,
    ListenerEntryKey,
    RemainingKey,
    VoidKey,
)
from anyport.registry.values import MAX_SIZE, Noun, decode, encode

V4 = ip_address("10.0.0.100")
V6 = IPv6Address("2001:db8::1")
PORTS = PortSet.parse("80,8000-8100/tcp,53/udp")
DEFINITION = Definition(V4, PORTS, Method.ROUND_ROBIN, frozenset({"b", "a"}))
LISTENER = Listener(V4, Protocol.UDP, 53, "a", False, "root", "named")
LISTENER_KEY = ListenerEntryKey("a", V4, Protocol.UDP, 53)

SCATTERED = b'{"v":1,"ports":"%s"}' % b",".join(b"%d" % port for port in range(1, 20_000, 2))
DISTRIBUTING = b'{"v":1,"term":3,"definition":{"v":1},"programmed_revision":99}'

EXAMPLES: list[tuple[Key, Noun, bytes]] = [
    (
        DefinitionKey(V4),
        DEFINITION,
        b'{"v":1,"ports":"53/udp,80,8000-8100/tcp","method":"round-robin","hosts":["a","b"]}',
    ),
    (
        DefinitionKey(V6),
        Definition(V6),
        b'{"v":1,"ports":"any","method":"hash","hosts":null}',
    ),
    (
        DefinitionKey(V6),
        Definition(V6, udp_idle=5),
        b'{"v":1,"ports":"any","method":"hash","hosts":null,"udp_idle":5}',
    ),
    (
        HostKey("a"),
        Host("a", V6, 10, HostState.DRAINING, 1.5, "x"),
        b'{"v":1,"address":"2001:db8::1","weight":10,"state":"draining","since":1.5,'
        b'"instance":"x"}',
    ),
    (
        HostKey("b"),
        Host("b", V4, address6=V6),
        b'{"v":1,"address":"10.0.0.100","weight":100,"state":"active","since":0.0,'
        b'"instance":"","address6":"2001:db8::1"}',
    ),
    (
        HostKey("b"),
        Host("b", V4, mac=bytes.fromhex("02000000aa01")),
        b'{"v":1,"address":"10.0.0.100","weight":100,"state":"active","since":0.0,'
        b'"instance":"","mac":"02:00:00:00:aa:01"}',
    ),
    (
        HostKey("b"),
        Host("b", V4, path=PathWish.IPIP),
        b'{"v":1,"address":"10.0.0.100","weight":100,"state":"active","since":0.0,'
        b'"instance":"","path":"ipip"}',
    ),
    (LISTENER_KEY, LISTENER, b'{"v":1,"specific":false,"user":"root","process":"named"}'),
    (
        ClaimKey("a", V4, 40000),
        Claim(PortBlock(V4, 40000, 40063), "a", 12),
        b'{"v":1,"last":40063}',
    ),
    (CandidacyKey("a", V4), Candidacy(V4, "a", -5, 12), b'{"v":1,"rank":-5}'),
    (
        DistributingKey("a", V4),
        Distributing("a", 3, Definition(V4), 99, frozenset({7, 5})),
        b'{"v":1,"term":3,"definition":{"v":1,"ports":"any","method":"hash","hosts":null},'
        b'"programmed_revision":99,"refused":[5,7]}',
    ),
    (
        DistributingKey("a", V4),
        Distributing("a", 3, Definition(V4), 99, gathering=True),
        b'{"v":1,"term":3,"definition":{"v":1,"ports":"any","method":"hash","hosts":null},'
        b'"programmed_revision":99,"refused":[],"gathering":true}',
    ),
    (
        ConnectionsKey("a", V4, 1),
        ConnectionsPiece("a", 3, 2, b"\xc6\x33\x64\x07\x13\x88\x00\x50"),
        b'{"v":1,"term":3,"pieces":2,"rows":"xjNkBxOIAFA="}',
    ),
    (DrainKey("a"), Drain("a", 1.5, 12), b'{"v":1,"since":1.5}'),
    (HeartbeatKey("a"), Heartbeat("a", 5), b'{"v":1,"ttl":5}'),
    (RemainingKey("a"), Remaining("a", 3), b'{"v":1,"connections":3}'),
    (VoidKey("b", V4, 12), Void(V4, 12, "b"), b'{"v":1}'),
]


@pytest.mark.parametrize(("key", "noun", "value"), EXAMPLES)
def test_the_format(key: Key, noun: Noun, value: bytes) -> None:
    """Stored values outlive a version: this table may grow, its lines may not change."""
    assert encode(noun) == value
    assert decode(key, value, 12) == noun


@pytest.mark.parametrize(("key", "noun", "value"), EXAMPLES)
def test_fields_of_a_later_version_are_passed_over(key: Key, noun: Noun, value: bytes) -> None:
    assert decode(key, value[:-1] + b',"novelty":{"x":[1]}}', 12) == noun


def test_fields_that_an_earlier_version_did_not_write_may_be_absent() -> None:
    value = b'{"v":1,"term":3,"definition":{"v":1},"programmed_revision":99}'
    key = DistributingKey("a", V4)
    assert decode(key, value, 12) == Distributing("a", 3, Definition(V4), 99)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (LISTENER_KEY, b"", "truncated"),
        (ConnectionsKey("a", V4, 0), b'{"v":1,"term":3,"pieces":65,"rows":""}', "<= 64"),
        (ConnectionsKey("a", V4, 0), b'{"v":1,"term":3,"pieces":0,"rows":""}', ">= 1"),
        (ConnectionsKey("a", V4, 0), b'{"v":1,"term":3,"pieces":1,"rows":"!"}', "base64"),
        (
            ConnectionsKey("a", V4, 0),
            b'{"v":1,"term":3,"pieces":1,"rows":"%s"}' % b64encode(bytes(MOST_ROW_BYTES + 1)),
            "<= 48000",
        ),
        (LISTENER_KEY, b"{}", "`v`"),
        (LISTENER_KEY, b"[]", "object"),
        (LISTENER_KEY, b'{"v":2,"specific":"somewhat"}', "version 2: this anyport reads version 1"),
        (LISTENER_KEY, b'{"v":0}', "version 0"),
        (LISTENER_KEY, b'{"v":1,"specific":3}', "specific"),
        (LISTENER_KEY, b'{"v":1,"user":"' + b"x" * 300 + b'"}', "user"),
        (LISTENER_KEY, b'{"v":1,"user":"\xff"}', "utf-8"),
        (LISTENER_KEY, b'{"v":1,"x":' + b"[" * 60_000, "deeply"),
        (LISTENER_KEY, b'{"v":1}' + b" " * MAX_SIZE, "allowed are 65536"),
        (ClaimKey("a", V4, 40000), b'{"v":1,"last":39999}', "before the first"),
        (ClaimKey("a", V4, 40000), b'{"v":1,"last":65536}', "last"),
        (ClaimKey("a", V4, 1024), b'{"v":1,"last":65535}', "64512 ports: allowed are 8192"),
        (CandidacyKey("a", V4), b'{"v":1,"rank":1e99}', "rank"),
        (
            DistributingKey("a", V4),
            b'{"v":1,"term":281474976710669,"definition":{"v":1},"programmed_revision":1}',
            "term 281474976710669: no registry has had so many revisions",
        ),
        (HostKey("a"), b'{"v":1,"address":"127.0.0.1"}', "127.0.0.1"),
        (HostKey("a"), b'{"v":1,"address":"255.255.255.255"}', "255.255.255.255"),
        (HostKey("a"), b'{"v":1,"address":"fe80::1%eth0"}', "fe80::1%eth0"),
        (HostKey("a"), b'{"v":1,"address":"10.0.0.1","since":1e300}', "since"),
        (HostKey("a"), b'{"v":1,"address":"10.0.0.256"}', "10.0.0.256"),
        (HostKey("a"), b'{"v":1,"address":"0.0.0.0"}', "0.0.0.0"),
        (HostKey("a"), b'{"v":1,"address":"10.0.0.1","address6":"10.0.0.2"}', "10.0.0.2"),
        (HostKey("a"), b'{"v":1,"address":"10.0.0.1","address6":"ff02::1"}', "ff02::1"),
        (HostKey("a"), b'{"v":1,"address":"10.0.0.1","weight":-1}', "weight"),
        (HostKey("a"), b'{"v":1,"address":"10.0.0.1","state":"asleep"}', "asleep"),
        (DefinitionKey(V4), b'{"v":1,"ports":"100-1"}', "backwards"),
        (DefinitionKey(V4), b'{"v":1,"method":"random"}', "random"),
        (DefinitionKey(V4), b'{"v":1,"hosts":["a/b"]}', "a/b"),
        (DefinitionKey(V4), b'{"v":1,"udp_idle":0}', "udp_idle"),
        (DefinitionKey(V4), b'{"v":1,"udp_idle":1000000}', "udp_idle"),
        (DefinitionKey(V4), SCATTERED, "allowed are 32768"),
        (DefinitionKey(ip_address("127.0.0.1")), b'{"v":1}', "loopback"),
        (DefinitionKey(ip_address("224.0.0.1")), b'{"v":1}', "multicast"),
        (DistributingKey("a", ip_address("127.0.0.1")), DISTRIBUTING, "loopback"),
        (DistributingKey("a", V4), b'{"v":1,"term":1}', "definition"),
    ],
)
def test_what_is_wrong_is_named(key: Key, value: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode(key, value, 12)


@given(st.sampled_from([key for key, _, _ in EXAMPLES]), st.binary() | st.text().map(str.encode))
def test_anything_else_is_a_value_error(key: Key, value: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - as various as the garbage
        decode(key, value, 12)


def test_a_process_may_call_itself_anything() -> None:
    value = encode(replace(LISTENER, process="\udcff\x00\n"))
    decoded = decode(LISTENER_KEY, value, 12)
    assert isinstance(decoded, Listener)
    assert decoded.process == "?\x00\n"


def test_too_long_a_value_is_not_written() -> None:
    hosts = frozenset(f"{'x' * 50}{number}" for number in range(2000))
    with pytest.raises(ValueError, match="allowed are 65536"):
        encode(replace(DEFINITION, hosts=hosts))


def test_what_an_acceptable_definition_grows_to_when_published_can_be_written() -> None:
    hosts = frozenset(f"{number:0>60}" for number in range(519))
    definition = replace(DEFINITION, hosts=hosts, udp_idle=86400)
    assert MAX_DEFINITION_SIZE - 100 < definition.size <= MAX_DEFINITION_SIZE
    assert decode(DefinitionKey(V4), encode(definition), 12) == definition
    refused = frozenset(range(2**62, 2**62 + MAX_HOSTS * MOST_NAMED))
    limits = frozenset((host, 2**62) for host in list(hosts)[:MAX_HOSTS])
    published = Distributing("a", 2**62, definition, 2**62, refused, limits)
    assert decode(DistributingKey("a", V4), encode(published), 2**62) == published


def test_a_full_piece_fits() -> None:
    """Of either family; and 48,000 bytes are whole rows."""
    assert GATHERED_BYTES % row_bytes(V4) == GATHERED_BYTES % row_bytes(V6) == 0
    assert GATHERED_BYTES == MOST_ROW_BYTES
    piece = ConnectionsPiece("a", 2**62, MOST_PIECES, bytes(GATHERED_BYTES))
    assert decode(ConnectionsKey("a", V4, MOST_PIECES - 1), encode(piece), 2**62) == piece
