# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyport.model import Protocol
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
    host_prefix,
    parse,
    valid_name,
)

V4 = ip_address("10.0.0.100")
V6 = ip_address("2001:db8::1")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (DefinitionKey(V4), "/anyport/v1/vips/10.0.0.100"),
        (DefinitionKey(V6), "/anyport/v1/vips/2001:db8::1"),
        (DrainKey("a.b-c_d"), "/anyport/v1/drains/a.b-c_d"),
        (HostKey("a"), "/anyport/v1/hosts/a/self"),
        (HeartbeatKey("a"), "/anyport/v1/hosts/a/heartbeat"),
        (RemainingKey("a"), "/anyport/v1/hosts/a/remaining"),
        (
            ListenerEntryKey("a", V4, Protocol.TCP, 80),
            "/anyport/v1/hosts/a/listeners/10.0.0.100/tcp/80",
        ),
        (
            ListenerEntryKey("a", V6, Protocol.UDP, 53),
            "/anyport/v1/hosts/a/listeners/2001:db8::1/udp/53",
        ),
        (ClaimKey("a", V4, 40000), "/anyport/v1/hosts/a/blocks/10.0.0.100/40000"),
        (CandidacyKey("a.b-c_d", V4), "/anyport/v1/hosts/a.b-c_d/candidates/10.0.0.100"),
        (ConnectionsKey("a", V6, 63), "/anyport/v1/hosts/a/connections/2001:db8::1/63"),
        (DistributingKey("a", V4), "/anyport/v1/hosts/a/distributing/10.0.0.100"),
    ],
)
def test_the_layout(key: Key, text: str) -> None:
    assert str(key) == text
    assert parse(text) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/anyport/v1/",
        "/anyport/v2/vips/10.0.0.100",
        "/anyport/v1/vips/10.0.0.1000",
        "/anyport/v1/vips/10.0.0.100/",
        "/anyport/v1/vips/2001:DB8::1",
        "/anyport/v1/vips/fe80::1%eth0",
        "/anyport/v1/drains/",
        "/anyport/v1/drains/a/b",
        "/anyport/v1/drains/ä",
        "/anyport/v1/hosts/a",
        "/anyport/v1/hosts//self",
        "/anyport/v1/hosts/ä/self",
        "/anyport/v1/hosts/a/self/b",
        "/anyport/v1/hosts/a/novelty/10.0.0.100",
        "/anyport/v1/hosts/a/listeners/10.0.0.100/tcp/080",
        "/anyport/v1/hosts/a/listeners/10.0.0.100/tcp/0",
        "/anyport/v1/hosts/a/listeners/10.0.0.100/tcp/65536",
        "/anyport/v1/hosts/a/listeners/10.0.0.100/tcp/8_0",
        "/anyport/v1/hosts/a/listeners/10.0.0.100/tcp/٨٠",
        "/anyport/v1/hosts/a/listeners/10.0.0.100/sctp/80",
        "/anyport/v1/hosts/a/blocks/10.0.0.100/-1",
        "/anyport/v1/hosts/a/connections/10.0.0.100/64",
        "/anyport/v1/hosts/a/connections/10.0.0.100/-1",
        "/anyport/v1/hosts/a/connections/10.0.0.100/00",
        "/anyport/v1/hosts/\udcff/self",
    ],
)
def test_what_is_no_key(text: str) -> None:
    assert parse(text) is None


@given(st.text() | st.text().map(lambda end: f"/anyport/v1/hosts/{end}"))
def test_any_text_is_a_key_in_its_one_form_or_none(text: str) -> None:
    key = parse(text)
    assert key is None or str(key) == text


@pytest.mark.parametrize("name", ["a", "host-1.example_x", "A" * 63])
def test_valid_names(name: str) -> None:
    assert valid_name(name)
    assert host_prefix(name) == f"/anyport/v1/hosts/{name}/"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "A" * 64, "a\n", "*"])
def test_invalid_names(name: str) -> None:
    assert not valid_name(name)
    with pytest.raises(ValueError, match="1 to 63"):
        host_prefix(name)
