# SPDX-License-Identifier: Apache-2.0
"""What was there before, what was missed, and definitions that change at run time."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from anyport.errors import KernelError
from anyport.kernel import sock_diag
from anyport.kernel.features import kernel_findings
from anyport.kernel.listen import Closed, HostedDefinition, ListenKernel, Opened
from anyport.model import Definition, Protocol, Socket
from tests.support.listen_host import OTHER_VIP, VIP, ListenHost, hosted, listen_host
from tests.support.netns import fresh_bpffs, fresh_cgroup, fresh_netns
from tests.support.sockets import MPTCP, bind_udp, listen_tcp, port_of


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ListenHost]:
    with listen_host(tmp_path) as host:
        yield host


def _after_first_dump(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """The real dumps, and something that happens right after the first."""
    whole = sock_diag.dump
    happens = iter([then])

    def dump() -> list[sock_diag.Dumped]:
        found = whole()
        for happen in happens:
            happen()
        return found

    monkeypatch.setattr(sock_diag, "dump", dump)


def _is_found(check: str) -> bool:
    return any(finding.found for finding in kernel_findings() if finding.check == check)


def endpoints(host: ListenHost) -> set[tuple[str, str, int]]:
    sockets = host.kernel.sockets().values()
    return {(str(s.address), s.protocol.word, s.port) for s in sockets}


def test_older_than_anyport(tmp_path: Path) -> None:
    with (
        fresh_netns(f"{VIP}/32"),
        fresh_cgroup() as cgroup,
        fresh_bpffs(tmp_path / "bpf") as bpffs,
        listen_tcp(str(VIP), 80) as tcp,
        bind_udp(str(VIP), 53),
        listen_tcp("0.0.0.0", 22),
    ):
        kernel = ListenKernel.attach(cgroup, bpffs / "pins")
        try:
            kernel.set_definitions([hosted()])
            opened, closed = kernel.reconcile()
            assert {(s.protocol, s.port) for s in opened} == {
                (Protocol.TCP, 80),
                (Protocol.UDP, 53),
            }
            assert {(s.pid, s.process) for s in opened} == {
                (os.getpid(), Path("/proc/self/comm").read_text().strip())
            }
            assert closed == []
            assert {
                event.socket for event in kernel.read().events if isinstance(event, Opened)
            } == (set(opened))
            tcp.close()
            (event,) = kernel.read().events
            assert isinstance(event, Closed)
        finally:
            kernel.detach()


def test_shutdown_of_an_older_listener_is_seen(host: ListenHost) -> None:
    """By the flag that `adopt` sets; where the kernel can't, by the next reconciliation."""
    with listen_tcp(str(VIP), 80) as listener:
        host.define(hosted())
        host.event()
        listener.shutdown(socket.SHUT_RD)
        if not _is_found("sockops flags by setsockopt"):
            host.quiet()
            host.kernel.reconcile()
        assert isinstance(host.event(), Closed)
        assert host.kernel.sockets() == {}


def test_reconcile_finds_a_missed_shutdown(host: ListenHost) -> None:
    host.define(hosted())
    with listen_tcp(str(VIP), 80):
        (cookie,) = host.kernel.sockets()
        assert host.kernel.closed(cookie)
        assert not host.kernel.closed(cookie)
        opened, closed = host.kernel.reconcile()
        assert ([s.cookie for s in opened], closed) == ([cookie], [])


def test_reconcile_closes_what_is_not_there(host: ListenHost) -> None:
    host.define(hosted())
    gone = Socket(cookie=1 << 60, address=VIP, protocol=Protocol.TCP, port=80)
    assert host.kernel.opened(gone)
    assert not host.kernel.opened(gone)
    assert host.kernel.reconcile() == ([], [gone.cookie])
    assert [type(event) for event in host.events(2)] == [Opened, Closed]


def test_reconcile_finds_another_life_of_a_socket(host: ListenHost) -> None:
    host.define(hosted())
    with listen_tcp(str(VIP), 80):
        (seen,) = host.kernel.sockets().values()
        host.kernel.closed(seen.cookie)
        former = Socket(cookie=seen.cookie, address=VIP, protocol=Protocol.TCP, port=81)
        host.kernel.opened(former)
        opened, closed = host.kernel.reconcile()
        assert ([s.port for s in opened], closed) == ([80], [seen.cookie])
        assert endpoints(host) == {(str(VIP), "tcp", 80)}


def test_added_socket_that_is_gone_by_then(
    host: ListenHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes between the dump and its recording, unseen: the recording is taken back."""
    listener = listen_tcp(str(VIP), 80)
    host.kernel.set_definitions([hosted()])
    _after_first_dump(monkeypatch, listener.close)
    opened, closed = host.kernel.reconcile()
    assert [s.cookie for s in opened] == closed
    assert host.kernel.sockets() == {}
    assert [type(event) for event in host.events(2)] == [Opened, Closed]


def test_socket_that_opens_after_the_dump_stays(
    host: ListenHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.define(hosted())
    opening: list[socket.socket] = []
    _after_first_dump(monkeypatch, lambda: opening.append(listen_tcp(str(VIP), 80)))
    assert host.kernel.reconcile() == ([], [])
    assert endpoints(host) == {(str(VIP), "tcp", 80)}
    opening[0].close()


def test_socket_that_one_dump_misses_stays(
    host: ListenHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor of sock_diag is a count: it skips when an earlier socket of the bucket goes."""
    host.define(hosted())
    with listen_tcp(str(VIP), 80):
        whole = sock_diag.dump
        dumps = iter([list, whole, whole])
        monkeypatch.setattr(sock_diag, "dump", lambda: next(dumps)())
        assert host.kernel.reconcile() == ([], [])
        assert endpoints(host) == {(str(VIP), "tcp", 80)}


def test_reconcile_when_nothing_changed(host: ListenHost) -> None:
    host.define(hosted(ports="80"))
    with (
        listen_tcp(str(VIP), 80),
        bind_udp("::", 80),
        bind_udp(str(VIP), 53),
        listen_tcp(str(VIP), 443, protocol=MPTCP),
    ):
        host.events(4)
        assert host.kernel.reconcile() == ([], [])
        host.quiet()


def test_udp_that_only_sent_or_connected_is_not_dumped(host: ListenHost) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        bind_udp("0.0.0.0", 53) as connected,
        bind_udp("::", 54) as receiver,
    ):
        sender.sendto(b"x", ("127.0.0.1", 9))
        connected.connect(("127.0.0.1", 9))
        host.define(hosted(ports="1-65535"))
        assert endpoints(host) == {("::", "udp", port_of(receiver))}


def test_definition_added_widened_narrowed_and_deleted(host: ListenHost) -> None:
    with (
        listen_tcp(str(VIP), 80),
        listen_tcp("0.0.0.0", 443),
        bind_udp("::", 53),
        listen_tcp(str(OTHER_VIP), 80),
    ):
        host.define()
        assert endpoints(host) == set()
        host.define(hosted())
        assert endpoints(host) == {(str(VIP), "tcp", 80)}
        host.define(hosted(ports="443"))
        assert endpoints(host) == {(str(VIP), "tcp", 80), ("0.0.0.0", "tcp", 443)}
        host.define(hosted(ports="443,53/udp"), hosted(OTHER_VIP))
        assert endpoints(host) == {
            (str(VIP), "tcp", 80),
            ("0.0.0.0", "tcp", 443),
            ("::", "udp", 53),
            (str(OTHER_VIP), "tcp", 80),
        }
        host.define(hosted(ports="53/udp"))
        assert endpoints(host) == {(str(VIP), "tcp", 80), ("::", "udp", 53)}
        host.define()
        assert endpoints(host) == set()
    events = host.kernel.read().events
    assert sum(isinstance(e, Opened) for e in events) == sum(isinstance(e, Closed) for e in events)


def test_too_many_vips(host: ListenHost) -> None:
    vips = [IPv4Address("10.99.1.0") + i for i in range(17)]
    host.define(*(HostedDefinition(Definition(vip)) for vip in vips[:16]))
    with pytest.raises(KernelError, match="17 VIPs are defined; a host takes 16"):
        host.define(*(HostedDefinition(Definition(vip)) for vip in vips))
    host.define(*(HostedDefinition(Definition(vip)) for vip in vips[1:]))


def test_restart_adopts_all(host: ListenHost) -> None:
    host.define(hosted(), hosted(OTHER_VIP, ports="80"))
    before = listen_tcp(str(VIP), 443)
    host.restart()
    host.events(1)
    meanwhile = listen_tcp("0.0.0.0", 80)
    before.close()
    assert [type(event) for event in host.events(2)] == [Opened, Closed]
    host.restart()
    assert host.kernel.reconcile() == ([], [])
    assert endpoints(host) == {("0.0.0.0", "tcp", 80)}
    host.define(hosted(OTHER_VIP, ports="81"), hosted())
    assert isinstance(host.event(), Closed)
    meanwhile.close()
    host.quiet()


def test_seen_while_no_daemon_runs(host: ListenHost) -> None:
    host.define(hosted())
    host.kernel.close()
    with listen_tcp(str(VIP), 80):
        host.start()
        assert isinstance(host.event(), Opened)
        assert host.kernel.reconcile() == ([], [])


def test_detach_leaves_nothing(host: ListenHost) -> None:
    host.define(hosted())
    host.kernel.detach()
    with listen_tcp(str(VIP), 80):
        host.start()
        assert host.kernel.sockets() == {}
        assert host.kernel.counters()["opened"] == 0


def test_lost_events_are_noticed_and_reconciled(host: ListenHost) -> None:
    host.define(hosted())
    for _ in range(70_000):  # two events each: more than 8 MiB
        bind_udp(str(VIP), 53).close()
    with bind_udp(str(VIP), 54):
        read = host.kernel.read()
        assert read.lost
        assert not host.kernel.read().lost
        assert host.kernel.reconcile() == ([], [])
        assert endpoints(host) == {(str(VIP), "udp", 54)}


def test_reconcile_while_sockets_come_and_go(host: ListenHost) -> None:
    """Never closes what stays, and leaves nothing of what went."""
    host.define(hosted())
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            group = [listen_tcp(str(VIP), 1000 + i, reuse_port=True) for i in range(20)]
            for listener in group:
                listener.close()

    staying = [listen_tcp(str(VIP), 2000 + i) for i in range(200)]
    staying += [bind_udp(str(VIP), 2000 + i) for i in range(200)]
    stay = {(str(VIP), word, 2000 + i) for i in range(200) for word in ("tcp", "udp")}
    churn = threading.Thread(target=come_and_go)  # a thread begins in its starter's namespace
    churn.start()
    try:
        for _ in range(50):
            host.kernel.reconcile()
            assert endpoints(host) >= stay
    finally:
        stop.set()
        churn.join()
    host.kernel.reconcile()
    assert endpoints(host) == stay
    balance: dict[int, int] = {}
    for event in host.kernel.read().events:
        match event:
            case Opened(seen):
                balance[seen.cookie] = balance.get(seen.cookie, 0) + 1
            case Closed(cookie):
                balance[cookie] = balance.get(cookie, 0) - 1
    assert sorted(set(balance.values())) == [0, 1]
    assert {c for c, left in balance.items() if left} == set(host.kernel.sockets())
    for listener in staying:
        listener.close()


def test_ten_thousand_listeners(host: ListenHost) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    ports = range(1024, 11_024)
    listeners = [listen_tcp(str(VIP), port) for port in ports]
    host.define(hosted())
    assert {s.port for s in host.kernel.sockets().values()} == set(ports)
    host.events(len(ports))
    for listener in listeners:
        listener.close()
    host.events(len(ports))
    assert host.kernel.sockets() == {}
