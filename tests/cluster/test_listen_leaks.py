# SPDX-License-Identifier: Apache-2.0
"""A VIP's port without a listener that counts answers as on an ordinary host (R8)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anyport.kernel.libbpf import Map
from anyport.model import Protocol
from tests.support.listen_host import CLIENT, OTHER_VIP, VIP, ListenHost, hosted, listen_host
from tests.support.sockets import (
    MPTCP,
    PATIENCE,
    bind_udp,
    connect_tcp,
    echo_udp,
    is_reachable_tcp,
    is_refused_udp,
    listen_tcp,
)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ListenHost]:
    with listen_host(tmp_path) as host:
        yield host


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_wildcard_is_refused_on_the_vip_only(host: ListenHost, wildcard: str) -> None:
    with listen_tcp(wildcard, 22), bind_udp(wildcard, 22) as udp:
        assert is_reachable_tcp(str(VIP), 22)
        host.define(hosted())
        assert not is_reachable_tcp(str(VIP), 22)
        assert is_refused_udp(str(VIP), 22)
        for elsewhere in ("127.0.0.1", str(OTHER_VIP)):
            assert is_reachable_tcp(elsewhere, 22)
            assert echo_udp(udp, elsewhere, 22) == b"ping"
        assert host.kernel.counters()["leaks_refused"] >= 2
        host.define()
        assert is_reachable_tcp(str(VIP), 22)


def test_nobody_listens(host: ListenHost) -> None:
    host.define(hosted(ports="80"))
    for port in (80, 81):
        assert not is_reachable_tcp(str(VIP), port)
        assert is_refused_udp(str(VIP), port)


def test_specific_listener_is_reachable_at_once(host: ListenHost) -> None:
    """Without a single look by Python at what happened."""
    host.define(hosted())
    with listen_tcp(str(VIP), 80), bind_udp(str(VIP), 53) as udp:
        assert is_reachable_tcp(str(VIP), 80)
        assert echo_udp(udp, str(VIP), 53) == b"ping"
        assert is_refused_udp(str(VIP), 80)
        assert not is_reachable_tcp(str(VIP), 53)
    assert not is_reachable_tcp(str(VIP), 80)
    assert is_refused_udp(str(VIP), 53)


@pytest.mark.parametrize("protocol", [0, MPTCP])
def test_wildcard_stays_refused_when_the_specific_listener_goes(
    host: ListenHost, protocol: int
) -> None:
    host.define(hosted())
    with listen_tcp("0.0.0.0", 80, reuse_port=True):
        with listen_tcp(str(VIP), 80, reuse_port=True, protocol=protocol):
            assert is_reachable_tcp(str(VIP), 80)
        assert not is_reachable_tcp(str(VIP), 80)


def test_reuseport_group_is_reachable_until_the_last(host: ListenHost) -> None:
    host.define(hosted())
    group = [listen_tcp(str(VIP), 80, reuse_port=True) for _ in range(3)]
    while group:
        assert is_reachable_tcp(str(VIP), 80)
        group.pop().close()
    assert not is_reachable_tcp(str(VIP), 80)


def test_enumerated_port_takes_wildcards(host: ListenHost) -> None:
    with (
        listen_tcp("0.0.0.0", 80),
        listen_tcp("::", 443),
        listen_tcp("0.0.0.0", 22),
        listen_tcp(str(VIP), 81),
        bind_udp("0.0.0.0", 53) as udp,
    ):
        host.define(hosted(ports="80,443,53/udp"))
        assert is_reachable_tcp(str(VIP), 80)
        assert is_reachable_tcp(str(VIP), 443)
        assert echo_udp(udp, str(VIP), 53) == b"ping"
        assert not is_reachable_tcp(str(VIP), 22)
        assert not is_reachable_tcp(str(VIP), 81)


def test_definition_changes_while_running(host: ListenHost) -> None:
    with listen_tcp("0.0.0.0", 80), listen_tcp(str(VIP), 443):
        for ports, reachable in (
            ("any", {443}),
            ("80", {80}),
            ("80,443", {80, 443}),
            ("any", {443}),
        ):
            host.define(hosted(ports=ports))
            assert {p for p in (80, 443) if is_reachable_tcp(str(VIP), p)} == reachable


@pytest.mark.parametrize(
    ("before", "after"),
    [("any", "443"), ("443", "any"), ("80,443", "443,8080"), ("any", "80,443")],
)
def test_no_write_of_a_change_misjudges_a_port(
    host: ListenHost, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    """443 counts before and after, 22 never: so it is after each single write to the maps."""
    seen: list[tuple[bool, bool]] = []

    def looked_at(write: Callable[..., None]) -> Callable[..., None]:
        def wrapped(self: Map, *arguments: object) -> None:
            write(self, *arguments)
            seen.append((is_reachable_tcp(str(VIP), 443), is_reachable_tcp(str(VIP), 22)))

        return wrapped

    with listen_tcp(str(VIP), 443), listen_tcp("0.0.0.0", 22):
        host.define(hosted(ports=before))
        for name in ("update", "update_batch"):
            monkeypatch.setattr(Map, name, looked_at(getattr(Map, name)))
        host.kernel.set_definitions([hosted(ports=after)])
    assert set(seen) == {(True, False)}


def test_own_block_port_of_an_enumerated_vip(host: ListenHost) -> None:
    """R7: unique ports are not enumerated, and yet reachable; of the VIP, not of a wildcard."""
    with listen_tcp("0.0.0.0", 40001):
        host.define(hosted(ports="80", own=((40000, 40015),)))
        host.kernel.set_deadline(1 << 62)
        host.kernel.fill(VIP, Protocol.TCP, [40000])
        with listen_tcp(str(VIP), 0):
            assert is_reachable_tcp(str(VIP), 40000)
            assert not is_reachable_tcp(str(VIP), 40001)


def test_established_connections_stay(host: ListenHost) -> None:
    host.define(hosted())
    with (
        listen_tcp(str(VIP), 80) as listener,
        connect_tcp(str(VIP), 80, CLIENT) as client,
        listener.accept()[0] as accepted,
    ):
        host.define(hosted(ports="81"))
        listener.close()
        client.sendall(b"still there?")
        assert accepted.recv(16) == b"still there?"


@pytest.mark.parametrize("connect", [False, True])
def test_answers_to_a_udp_client_on_the_vip(host: ListenHost, connect: bool) -> None:
    """A query sent from the VIP gets its answer: connected, or bound without listening."""
    host.define(hosted())
    with bind_udp("127.0.0.1", 53) as server, bind_udp(str(VIP), 5353) as client:
        server.settimeout(PATIENCE)
        client.settimeout(PATIENCE)
        if connect:
            client.connect(("127.0.0.1", 53))
            client.send(b"query")
        else:
            client.sendto(b"query", ("127.0.0.1", 53))
        data, peer = server.recvfrom(16)
        server.sendto(b"answer to " + data, peer)
        assert client.recv(32) == b"answer to query"


def test_vip_as_the_source_of_a_connection(host: ListenHost) -> None:
    host.define(hosted())
    with listen_tcp("127.0.0.1", 80) as server, socket.socket() as client:
        client.bind((str(VIP), 5000))
        client.connect(("127.0.0.1", 80))
        with server.accept()[0] as accepted:
            accepted.sendall(b"hello")
            assert client.recv(16) == b"hello"
