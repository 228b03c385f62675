# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import ip_address

import pytest

from anyport.daemon import wish
from anyport.errors import UsageError
from anyport.model import ANY, Definition, Method, PortSet

BEFORE = Definition(ip_address("192.0.2.10"), PortSet.parse("80"), hosts=frozenset("a"))


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (b"{}", BEFORE),
        (b'{"ports":"any","hosts":"all"}', Definition(BEFORE.vip, ANY)),
        (
            b'{"vip":"x","method":"round-robin","hosts":["b","a"],"udp_idle":5}',
            Definition(BEFORE.vip, BEFORE.ports, Method.ROUND_ROBIN, frozenset("ab"), 5),
        ),
    ],
)
def test_what_is_given_changes(body: bytes, after: Definition) -> None:
    assert wish.parse(body).applied(BEFORE) == after


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "expected `object`, got `array`|not JSON"),
        (b"[]", "expected `object`, got `array`"),
        (b'{"colour":1}', "unknown field `colour`"),
        (b'{"ports":80}', "ports: expected `str"),
        (b'{"ports":"90-80"}', "did you mean 80-90"),
        (b'{"method":"random"}', "allowed are hash, round-robin"),
        (b'{"hosts":5}', "hosts: expected"),
        (b'{"hosts":[5]}', "hosts"),
        (b'{"hosts":{"a":1}}', "hosts: expected"),
        (b'{"hosts":"a"}', "allowed are `all` or a list of names"),
        (b'{"udp_idle":"5"}', "udp_idle: expected"),
        (b'{"udp_idle":0}', "udp_idle: expected `int` >= 1"),
        (b'{"udp_idle":true}', "udp_idle: expected"),
    ],
)
def test_what_is_off_is_named_in_one_line(body: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=f"(?i){said}") as refused:
        wish.parse(body).applied(BEFORE)
    assert "\n" not in str(refused.value)
