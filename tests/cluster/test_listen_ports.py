# SPDX-License-Identifier: Apache-2.0
"""bind(VIP, 0): block ports handed out by the kernel, and defended (R7)."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anyport.errors import KernelError
from anyport.kernel.listen import Exhausted, Freed, Handed, Opened
from anyport.model import Protocol
from tests.support.listen_host import CLIENT, OTHER_VIP, VIP, ListenHost, hosted, listen_host
from tests.support.sockets import MPTCP, bind_tcp, bind_udp, connect_tcp, listen_tcp, port_of

Bind = Callable[[str], socket.socket]
OWN, FOREIGN = (40000, 40015), (41000, 41015)
FOREVER = 1 << 62
MAPPED = f"::ffff:{VIP}"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ListenHost]:
    with listen_host(tmp_path) as host:
        host.define(hosted(own=(OWN,), leased=(FOREIGN,)))
        host.kernel.set_deadline(FOREVER)
        yield host


def bind_mptcp(address: str) -> socket.socket:
    return bind_tcp(address, protocol=MPTCP)


@contextmanager
def in_use() -> Iterator[None]:
    with pytest.raises(OSError, match=r"\[Errno \d+\]") as raised:
        yield
    assert raised.value.errno == errno.EADDRINUSE


BINDS = [
    pytest.param(bind_tcp, Protocol.TCP, id="tcp"),
    pytest.param(bind_udp, Protocol.UDP, id="udp"),
    pytest.param(bind_mptcp, Protocol.TCP, id="mptcp"),
]


@pytest.mark.parametrize("address", [str(VIP), MAPPED])
@pytest.mark.parametrize(("bind", "protocol"), BINDS)
def test_bind_0_gets_a_block_port(
    host: ListenHost, bind: Bind, protocol: Protocol, address: str
) -> None:
    host.kernel.fill(VIP, protocol, [40003])
    with bind(address) as bound:
        assert port_of(bound) == 40003
        handed, *opened = host.events(2 if protocol is Protocol.UDP else 1)
        assert isinstance(handed, Handed)
        assert (handed.vip, handed.protocol, handed.port) == (VIP, protocol, 40003)
        assert all(isinstance(event, Opened) for event in opened)
        (entry,) = host.kernel.handed()
        assert (entry.cookie, entry.port, entry.bound) == (handed.cookie, 40003, True)
        assert 0 < entry.since_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    freed = host.events(2 if protocol is Protocol.UDP else 1)[-1]
    assert freed == Freed(handed.cookie, VIP, protocol, 40003)
    assert host.kernel.handed() == []


def test_listener_on_a_handed_port(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40003])
    listener = listen_tcp(str(VIP))
    handed, opened = host.events(2)
    assert isinstance(handed, Handed)
    assert isinstance(opened, Opened)
    assert handed.cookie == opened.socket.cookie
    listener.close()
    assert {type(event).__name__ for event in host.events(2)} == {"Closed", "Freed"}


def test_no_port_twice_in_spite_of_reuseaddr(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, range(40000, 40016))
    bound = [bind_tcp(str(VIP), reuse_address=True, reuse_port=True) for _ in range(16)]
    assert {port_of(one) for one in bound} == set(range(40000, 40016))
    with in_use():
        bind_tcp(str(VIP), reuse_address=True, reuse_port=True)
    for one in bound:
        one.close()


def test_protocols_have_pools_of_their_own(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.UDP, [40000])
    with in_use():
        bind_tcp(str(VIP))
    with bind_udp(str(VIP)) as bound:
        assert port_of(bound) == 40000


def test_other_addresses_get_ordinary_ports(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40000])
    for address in ("0.0.0.0", "127.0.0.1", "::", str(OTHER_VIP)):
        with bind_tcp(address) as bound:
            assert port_of(bound) != 40000
    host.quiet()


@pytest.mark.parametrize(("bind", "protocol"), BINDS)
def test_exhausted(host: ListenHost, bind: Bind, protocol: Protocol) -> None:
    with in_use():
        bind(str(VIP))
    event = host.event()
    assert isinstance(event, Exhausted)
    assert (event.vip, event.protocol) == (VIP, protocol)
    assert event.process
    assert host.kernel.counters()["ports_exhausted"] == 1
    assert host.kernel.handed() == []


def test_no_port_after_the_deadline(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40000])
    for deadline in (time.clock_gettime_ns(time.CLOCK_BOOTTIME), 0):
        host.kernel.set_deadline(deadline)
        with in_use():
            bind_tcp(str(VIP))
        assert isinstance(host.event(), Exhausted)
    assert host.kernel.pool(VIP, Protocol.TCP) == [40000]
    host.kernel.set_deadline(FOREVER)
    bind_tcp(str(VIP)).close()


def test_port_of_a_block_given_up_is_skipped(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40000, 40001])
    host.define(hosted(own=((40001, 40015),)))
    with bind_tcp(str(VIP)) as bound:
        assert port_of(bound) == 40001
        freed, handed = host.events(2)
        assert freed == Freed(0, VIP, Protocol.TCP, 40000)
        assert isinstance(handed, Handed)


def test_enumerated_port_inside_a_block_is_anybodys(host: ListenHost) -> None:
    """A definition may come to enumerate one: neither handed out nor defended any more."""
    host.kernel.fill(VIP, Protocol.TCP, [40000, 40001])
    host.define(hosted(ports="40000", own=(OWN,)))
    with bind_tcp(str(VIP)) as bound:
        assert port_of(bound) == 40001
    bind_tcp(str(VIP), 40000).close()
    bind_tcp("0.0.0.0", 40000).close()
    with in_use():
        bind_tcp("0.0.0.0", 40002)


def test_failed_bind_is_undone(host: ListenHost) -> None:
    """A wildcard holder from before the block was ours makes the handed port fail."""
    host.define(hosted())
    with listen_tcp("0.0.0.0", 40000):
        host.define(hosted(own=(OWN,)))
        host.kernel.fill(VIP, Protocol.TCP, [40000, 40001])
        with socket.socket() as bound:
            with in_use():
                bound.bind((str(VIP), 0))
            (first,) = host.events(1)
            assert isinstance(first, Handed)
            assert [entry.bound for entry in host.kernel.handed()] == [False]
            bound.bind((str(VIP), 0))
            assert port_of(bound) == 40001
            freed, second = host.events(2)
            assert freed == Freed(first.cookie, VIP, Protocol.TCP, 40000)
            assert isinstance(second, Handed)
            assert [(e.port, e.bound) for e in host.kernel.handed()] == [(40001, True)]
        assert host.event() == Freed(first.cookie, VIP, Protocol.TCP, 40001)


def test_failed_bind_is_freed_with_its_socket(host: ListenHost) -> None:
    host.define(hosted())
    with bind_udp("0.0.0.0", 40000):
        host.define(hosted(own=(OWN,)))
        host.kernel.fill(VIP, Protocol.UDP, [40000])
        with in_use():
            bind_udp(str(VIP))
        assert [type(event).__name__ for event in host.events(2)] == ["Handed", "Freed"]


def test_second_bind_keeps_the_first_port(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40000, 40001])
    with bind_tcp(str(VIP)) as bound:
        with pytest.raises(OSError, match="Invalid argument"):
            bound.bind((str(VIP), 0))
        assert port_of(bound) == 40000
        assert [entry.port for entry in host.kernel.handed()] == [40000]
    assert [type(event).__name__ for event in host.events(2)] == ["Handed", "Freed"]


def test_bind_address_no_port_takes_a_whole_port(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40000])
    with socket.socket() as bound:
        bound.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        bound.bind((str(VIP), 0))
        assert port_of(bound) == 40000


@pytest.mark.parametrize("address", [str(VIP), MAPPED])
@pytest.mark.parametrize("port", [40000, 41000])
@pytest.mark.parametrize("bind", [bind_tcp, bind_udp])
def test_explicit_bind_inside_a_block_is_refused(
    host: ListenHost, bind: Callable[..., socket.socket], port: int, address: str
) -> None:
    """Everyone's, the owner's too: its allocator is the only way in."""
    with in_use():
        bind(address, port)
    host.quiet()
    assert host.kernel.counters()["binds_refused"] == 1
    bind("127.0.0.1", port).close()


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
@pytest.mark.parametrize("bind", [bind_tcp, bind_udp])
def test_wildcard_bind_is_refused_in_own_blocks_only(
    host: ListenHost, bind: Callable[..., socket.socket], wildcard: str
) -> None:
    with in_use():
        bind(wildcard, 40000)
    bind(wildcard, 41000).close()
    if wildcard == "::":
        bind(wildcard, 40000, v6only=True).close()


def test_other_vips_block_is_no_concern(host: ListenHost) -> None:
    host.define(hosted(), hosted(OTHER_VIP, own=(OWN,)))
    bind_tcp(str(VIP), 40000).close()
    with in_use():
        bind_tcp(str(OTHER_VIP), 40000)


def test_bindable(host: ListenHost) -> None:
    kernel = host.kernel
    for protocol in Protocol:
        assert kernel.bindable(VIP, protocol, 40000)
    host.quiet()
    kernel.fill(VIP, Protocol.TCP, [40000])
    with bind_tcp(str(VIP)):  # sock_diag before 6.8 shows nothing of it
        assert not kernel.bindable(VIP, Protocol.TCP, 40000)
        assert kernel.bindable(VIP, Protocol.UDP, 40000)
    assert kernel.bindable(VIP, Protocol.TCP, 40000)
    with listen_tcp("0.0.0.0", 50000):
        assert not kernel.bindable(VIP, Protocol.TCP, 50000)


def test_not_bindable_while_a_child_or_time_wait_is_left(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40000])
    listener = listen_tcp(str(VIP))
    client = connect_tcp(str(VIP), 40000, CLIENT)
    accepted, _ = listener.accept()
    listener.close()
    assert not host.kernel.bindable(VIP, Protocol.TCP, 40000)
    accepted.close()
    client.close()
    assert not host.kernel.bindable(VIP, Protocol.TCP, 40000)


def test_pool_is_read_without_changing_it(host: ListenHost) -> None:
    assert host.kernel.pool(VIP, Protocol.TCP) == []
    host.kernel.fill(VIP, Protocol.TCP, [40001, 40002, 40000])
    for _ in range(2):
        assert sorted(host.kernel.pool(VIP, Protocol.TCP)) == [40000, 40001, 40002]
    assert host.kernel.pool(VIP, Protocol.UDP) == []


def test_pool_and_handed_outlive_the_daemon(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40000, 40001, 40002])
    with bind_tcp(str(VIP)):
        host.restart()
        assert sorted(host.kernel.pool(VIP, Protocol.TCP)) == [40001, 40002]
        assert [entry.port for entry in host.kernel.handed()] == [40000]
        with bind_tcp(str(VIP)) as bound:
            assert port_of(bound) in (40001, 40002)
    assert [type(e).__name__ for e in host.events(4)] == ["Handed", "Handed", "Freed", "Freed"]


def test_pool_goes_with_its_definition(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40000])
    host.define()
    with pytest.raises(KernelError, match=f"{VIP} is not a VIP"):
        host.kernel.pool(VIP, Protocol.TCP)
    host.define(hosted(OTHER_VIP, own=(OWN,)))
    assert host.kernel.pool(OTHER_VIP, Protocol.TCP) == []


def test_freed_by_hand(host: ListenHost) -> None:
    host.kernel.fill(VIP, Protocol.TCP, [40000])
    with bind_tcp(str(VIP)):
        (handed,) = host.events(1)
        assert isinstance(handed, Handed)
        assert host.kernel.freed(handed.cookie)
        assert not host.kernel.freed(handed.cookie)
        assert host.event() == Freed(handed.cookie, VIP, Protocol.TCP, 40000)
