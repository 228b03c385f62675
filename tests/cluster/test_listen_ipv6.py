# SPDX-License-Identifier: Apache-2.0
"""IPv6 VIPs on one host: what counts, what is refused, and which ports are handed out."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from anyport.kernel import sock_diag
from anyport.kernel.listen import Closed, Exhausted, Freed, Handed, Opened
from anyport.kernel.sock_diag import Connected
from anyport.model import Protocol
from tests.support.listen_host import OTHER_VIP6, VIP, VIP6, ListenHost, hosted, listen_host
from tests.support.sockets import (
    MPTCP,
    bind_tcp,
    bind_udp,
    connect_tcp,
    echo_udp,
    is_reachable_tcp,
    is_refused_udp,
    listen_tcp,
    port_of,
)

Open = Callable[..., socket.socket]
OWN, FOREIGN = (40000, 40015), (41000, 41015)
MAPPED = f"::ffff:{VIP}"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ListenHost]:
    with listen_host(tmp_path) as host:
        host.kernel.set_deadline(1 << 62)
        yield host


@contextmanager
def in_use() -> Iterator[None]:
    with pytest.raises(OSError, match=r"\[Errno \d+\]") as raised:
        yield
    assert raised.value.errno == errno.EADDRINUSE


OPENERS = [
    pytest.param(listen_tcp, Protocol.TCP, id="tcp"),
    pytest.param(bind_udp, Protocol.UDP, id="udp"),
]


# ---- what is seen (R2-R4) ----


@pytest.mark.parametrize(("open_listener", "protocol"), OPENERS)
def test_a_listener_on_the_vip(host: ListenHost, open_listener: Open, protocol: Protocol) -> None:
    host.define(hosted(VIP6))
    listener = open_listener(str(VIP6), 80)
    seen = host.event()
    assert isinstance(seen, Opened)
    assert (seen.socket.address, seen.socket.protocol, seen.socket.port) == (VIP6, protocol, 80)
    listener.close()
    assert host.event() == Closed(seen.socket.cookie)


@pytest.mark.parametrize("v6only", [False, True])
@pytest.mark.parametrize(("open_listener", "protocol"), OPENERS)
def test_a_wildcard_on_an_enumerated_port(
    host: ListenHost, open_listener: Open, protocol: Protocol, v6only: bool
) -> None:
    host.define(hosted(VIP6, ports="80"))
    with open_listener("::", 80, v6only=v6only):
        seen = host.event()
        assert isinstance(seen, Opened)
        assert (seen.socket.address, seen.socket.takes_ipv4) == (IPv6Address(0), not v6only)


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::ffff:0.0.0.0"])
@pytest.mark.parametrize(("open_listener", "protocol"), OPENERS)
def test_ipv4_wildcards_take_no_ipv6(
    host: ListenHost, open_listener: Open, protocol: Protocol, wildcard: str
) -> None:
    host.define(hosted(VIP6, ports="80"))
    open_listener(wildcard, 80).close()
    host.quiet()


def test_one_wildcard_for_vips_of_both_families(host: ListenHost) -> None:
    host.define(hosted(ports="80,81"), hosted(VIP6, ports="80"))
    with listen_tcp("::", 80):
        assert isinstance(host.event(), Opened)
        for vip in (VIP, VIP6):
            assert is_reachable_tcp(str(vip), 80)
    assert isinstance(host.event(), Closed)
    listen_tcp("::", 81, v6only=True).close()  # of the IPv4 VIP only
    host.quiet()


def test_a_mapped_bind_is_the_ipv4_vips(host: ListenHost) -> None:
    host.define(hosted(), hosted(VIP6))
    with listen_tcp(MAPPED, 80):
        seen = host.event()
        assert isinstance(seen, Opened)
        assert seen.socket.address == VIP


def test_listeners_older_than_the_definition(host: ListenHost) -> None:
    """Found by the dump of both families. What is bound to an IPv6 address is V6ONLY by itself."""
    with (
        listen_tcp(str(VIP6), 80),
        bind_udp(str(VIP6), 53),
        listen_tcp("::", 443, v6only=True),
        listen_tcp("0.0.0.0", 444),
    ):
        host.define(hosted(VIP6, ports="80,53,443,444"))
        found = {(str(s.address), s.port, s.takes_ipv4) for s in host.kernel.sockets().values()}
        assert found == {(str(VIP6), 80, False), (str(VIP6), 53, False), ("::", 443, False)}


def test_connections_to_the_vip(host: ListenHost) -> None:
    with (
        listen_tcp(str(VIP6), 80) as listener,
        connect_tcp(str(VIP6), 80, str(OTHER_VIP6)) as client,
        listener.accept()[0],
    ):
        assert sock_diag.connections([VIP6]) == [Connected(OTHER_VIP6, port_of(client), VIP6, 80)]


# ---- no leaks (R8) ----


def test_a_wildcard_is_refused_on_the_vip_only(host: ListenHost) -> None:
    with listen_tcp("::", 22), bind_udp("::", 22) as udp:
        assert is_reachable_tcp(str(VIP6), 22)
        host.define(hosted(VIP6))
        assert not is_reachable_tcp(str(VIP6), 22)
        assert is_refused_udp(str(VIP6), 22)
        for elsewhere in ("::1", str(OTHER_VIP6), str(VIP)):
            assert is_reachable_tcp(elsewhere, 22)
            assert echo_udp(udp, elsewhere, 22) == b"ping"


def test_a_specific_listener_is_reachable(host: ListenHost) -> None:
    host.define(hosted(VIP6))
    with listen_tcp(str(VIP6), 80), bind_udp(str(VIP6), 53) as udp:
        assert is_reachable_tcp(str(VIP6), 80)
        assert echo_udp(udp, str(VIP6), 53) == b"ping"
    assert not is_reachable_tcp(str(VIP6), 80)
    assert is_refused_udp(str(VIP6), 53)


# ---- bind(VIP, 0) (R7) ----


def bind_mptcp(address: str, port: int = 0) -> socket.socket:
    return bind_tcp(address, port, protocol=MPTCP)


@pytest.mark.parametrize(
    ("bind", "protocol"),
    [
        pytest.param(bind_tcp, Protocol.TCP, id="tcp"),
        pytest.param(bind_udp, Protocol.UDP, id="udp"),
        pytest.param(bind_mptcp, Protocol.TCP, id="mptcp"),
    ],
)
def test_bind_0_gets_a_block_port(host: ListenHost, bind: Open, protocol: Protocol) -> None:
    host.define(hosted(VIP6, own=(OWN,)))
    with in_use():
        bind(str(VIP6))
    assert isinstance(host.event(), Exhausted)
    host.kernel.fill(VIP6, protocol, [40003])
    with bind(str(VIP6)) as bound:
        assert port_of(bound) == 40003
        handed = host.events(2 if protocol is Protocol.UDP else 1)[0]
        assert isinstance(handed, Handed)
        assert (handed.vip, handed.protocol, handed.port) == (VIP6, protocol, 40003)
    freed = host.events(2 if protocol is Protocol.UDP else 1)[-1]
    assert freed == Freed(handed.cookie, VIP6, protocol, 40003)


@pytest.mark.parametrize("bind", [bind_tcp, bind_udp])
def test_blocks_are_defended(host: ListenHost, bind: Open) -> None:
    """Of the VIP everyone's, of wildcards that take its packets our own."""
    host.define(hosted(VIP6, own=(OWN,), leased=(FOREIGN,)))
    for address, port in ((str(VIP6), 40000), (str(VIP6), 41000), ("::", 40000)):
        with in_use():
            bind(address, port)
    for address, port in (("::", 41000), ("0.0.0.0", 40000), (str(OTHER_VIP6), 40000)):
        bind(address, port).close()
    with in_use():
        bind("::", 40000, v6only=True)


def test_a_family_has_blocks_of_its_own(host: ListenHost) -> None:
    host.define(hosted(own=(OWN,)), hosted(VIP6, own=(FOREIGN,)))
    host.kernel.fill(VIP, Protocol.TCP, [40000])
    host.kernel.fill(VIP6, Protocol.TCP, [41000])
    with bind_tcp(str(VIP6)) as six, bind_tcp(MAPPED) as four:
        assert (port_of(six), port_of(four)) == (41000, 40000)


@pytest.mark.parametrize("holder", [str(VIP6), "::"])
def test_bindable(host: ListenHost, holder: str) -> None:
    assert host.kernel.bindable(VIP6, Protocol.TCP, 50000)
    assert host.kernel.bindable(ip_address("fd99::9"), Protocol.UDP, 50000)  # not there yet
    with listen_tcp(holder, 50000):
        assert not host.kernel.bindable(VIP6, Protocol.TCP, 50000)
        assert host.kernel.bindable(VIP6, Protocol.UDP, 50000)
    with listen_tcp("0.0.0.0", 50000):
        assert host.kernel.bindable(VIP6, Protocol.TCP, 50000)
