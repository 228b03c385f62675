# SPDX-License-Identifier: Apache-2.0
"""Every way a program has to open and close a listener: opened once, closed once (R2-R4)."""

from __future__ import annotations

import array
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from anyport.kernel.listen import Closed, Opened
from anyport.model import Protocol, Socket
from tests.support.listen_host import CLIENT, VIP, ListenHost, hosted, listen_host
from tests.support.netns import fresh_netns, run
from tests.support.sockets import MPTCP, bind_tcp, bind_udp, connect_tcp, listen_tcp, port_of

LISTEN_AND_WAIT = """
import socket, sys
s = socket.socket(); s.bind((sys.argv[1], 80)); s.listen()
print("listening", flush=True); sys.stdin.read()
"""
HOLD_AND_WAIT = 'import sys; print("here", flush=True); sys.stdin.read()'


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ListenHost]:
    with listen_host(tmp_path) as host:
        yield host


def opened(host: ListenHost) -> Socket:
    event = host.event()
    assert isinstance(event, Opened)
    return event.socket


@contextmanager
def counted_runs(host: ListenHost) -> Iterator[Callable[[], int]]:
    """How often the program of sockops has run; the kernel counts while asked to."""
    if shutil.which("bpftool") is None:
        pytest.skip("needs bpftool")
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    link = json.loads(
        run("bpftool", "-j", "link", "show", "pinned", str(host.pin("tcp_listeners")))
    )
    number = str(link["prog_id"])

    def runs() -> int:
        shown = json.loads(run("bpftool", "-j", "prog", "show", "id", number))
        return int(shown.get("run_cnt", 0))

    before = switch.read_text()
    switch.write_text("1")
    try:
        yield runs
    finally:
        switch.write_text(before)


def program(text: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    """Runs until its standard input is closed; has said so when this returns."""
    command = [sys.executable, "-c", text, *arguments]
    started = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds
    )
    assert started.stdout is not None
    assert started.stdout.readline()
    return started


def end(started: subprocess.Popen[str]) -> None:
    started.communicate(timeout=10)


def test_tcp_on_vip_opens_and_closes(host: ListenHost) -> None:
    host.define(hosted())
    listener = listen_tcp(str(VIP), 80)
    seen = opened(host)
    assert (seen.address, seen.protocol, seen.port) == (VIP, Protocol.TCP, 80)
    assert (seen.uid, seen.pid, seen.process) == (
        os.getuid(),
        os.getpid(),
        Path("/proc/thread-self/comm").read_text().strip(),
    )
    assert host.kernel.sockets() == {seen.cookie: seen}
    listener.close()
    assert host.event() == Closed(seen.cookie)
    assert host.kernel.sockets() == {}


def test_bound_but_not_listening_is_no_listener(host: ListenHost) -> None:
    host.define(hosted())
    bind_tcp(str(VIP), 80).close()
    host.quiet()


def test_wildcard_without_enumerated_port_causes_no_event(host: ListenHost) -> None:
    host.define(hosted())
    for address in ("0.0.0.0", "::"):
        listen_tcp(address, 80).close()
        bind_udp(address, 80).close()
    host.quiet()


def test_other_addresses_cause_no_event(host: ListenHost) -> None:
    host.define(hosted(ports="80"))
    listen_tcp("127.0.0.1", 80).close()
    listen_tcp("::1", 80).close()
    listen_tcp("0.0.0.0", 81).close()
    host.quiet()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_wildcards_on_enumerated_port(host: ListenHost, address: str) -> None:
    host.define(hosted(ports="80"))
    for open_listener in (listen_tcp, bind_udp):
        listener = open_listener(address, 80)
        seen = opened(host)
        assert seen.wildcard
        assert seen.takes_ipv4
        assert isinstance(seen.address, IPv6Address if address == "::" else IPv4Address)
        listener.close()
        assert host.event() == Closed(seen.cookie)


def test_v6only_wildcard_takes_no_ipv4(host: ListenHost) -> None:
    host.define(hosted(ports="80"))
    listen_tcp("::", 80, v6only=True).close()
    bind_udp("::", 80, v6only=True).close()
    host.quiet()


def test_enumerated_protocols_are_told_apart(host: ListenHost) -> None:
    host.define(hosted(ports="80/tcp"))
    bind_udp("0.0.0.0", 80).close()
    host.quiet()
    with listen_tcp("0.0.0.0", 80):
        opened(host)


def test_v4_mapped_is_the_vip(host: ListenHost) -> None:
    host.define(hosted())
    with listen_tcp(f"::ffff:{VIP}", 80):
        assert opened(host).address == VIP


def test_reuseport_group_is_three_sockets(host: ListenHost) -> None:
    host.define(hosted())
    group = [listen_tcp(str(VIP), 80, reuse_port=True) for _ in range(3)]
    assert len({event.socket.cookie for event in host.events(3) if isinstance(event, Opened)}) == 3
    for left in (2, 1, 0):
        group.pop().close()
        assert isinstance(host.event(), Closed)
        assert len(host.kernel.sockets()) == left


def test_forked_child_keeps_it_open(host: ListenHost) -> None:
    host.define(hosted())
    listener = listen_tcp(str(VIP), 80)
    cookie = opened(host).cookie
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    listener.close()
    host.quiet()
    os.close(writing)
    os.waitpid(child, 0)
    os.close(reading)
    assert host.event() == Closed(cookie)


def test_passed_by_descriptor(host: ListenHost) -> None:
    host.define(hosted())
    listener = listen_tcp(str(VIP), 80)
    cookie = opened(host).cookie
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        descriptor = array.array("i", [listener.fileno()])
        sender.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
        listener.close()
        host.quiet()
        _, ancillary, _, _ = receiver.recvmsg(1, socket.CMSG_SPACE(4))
    (received,) = array.array("i", ancillary[0][2])
    host.quiet()
    os.close(received)
    assert host.event() == Closed(cookie)


def test_inherited_over_exec(host: ListenHost) -> None:
    host.define(hosted())
    listener = listen_tcp(str(VIP), 80)
    cookie = opened(host).cookie
    holder = program(HOLD_AND_WAIT, pass_fds=(listener.fileno(),))
    listener.close()
    host.quiet()
    end(holder)
    assert host.event() == Closed(cookie)


def test_kill_9(host: ListenHost) -> None:
    host.define(hosted())
    server = program(LISTEN_AND_WAIT, str(VIP))
    seen = opened(host)
    assert seen.pid == server.pid
    server.send_signal(signal.SIGKILL)
    end(server)
    assert host.event() == Closed(seen.cookie)


def test_shutdown_and_listen_again(host: ListenHost) -> None:
    host.define(hosted())
    with listen_tcp(str(VIP), 80) as listener:
        cookie = opened(host).cookie
        listener.shutdown(socket.SHUT_RD)
        assert host.event() == Closed(cookie)
        listener.listen()
        assert opened(host).cookie == cookie
    assert host.event() == Closed(cookie)


def test_listen_twice_is_one_opening(host: ListenHost) -> None:
    host.define(hosted())
    with listen_tcp(str(VIP), 80) as listener:
        opened(host)
        listener.listen(5)
        host.quiet()


def test_listen_without_bind(host: ListenHost) -> None:
    host.define(hosted(ports="1-65535"))
    with socket.socket() as listener:
        listener.listen()
        seen = opened(host)
        assert seen.wildcard
        assert seen.port == port_of(listener)


@pytest.mark.parametrize("address", [str(VIP), f"::ffff:{VIP}"])
def test_mptcp_listener(host: ListenHost, address: str) -> None:
    host.define(hosted())
    listener = listen_tcp(address, 80, protocol=MPTCP)
    seen = opened(host)
    assert (seen.address, seen.port, seen.protocol) == (VIP, 80, Protocol.TCP)
    host.kernel.reconcile()
    host.quiet()
    listener.close()
    assert host.event() == Closed(seen.cookie)


def test_connections_cause_no_event(host: ListenHost) -> None:
    """Neither those to a listener of the VIP, whose children inherit its flags, nor others."""
    host.define(hosted(ports="1-65535"))
    for address in (str(VIP), "127.0.0.1"):
        with listen_tcp(address, 80) as listener:
            if address == str(VIP):
                opened(host)
            with connect_tcp(address, 80, CLIENT), listener.accept()[0] as accepted:
                accepted.shutdown(socket.SHUT_RDWR)
            host.quiet()
        if address == str(VIP):
            assert isinstance(host.event(), Closed)


def test_connections_of_a_listener_cost_no_more_than_others(host: ListenHost) -> None:
    """Children inherit the flag that tells of each change of state; it is taken from them."""
    host.define(hosted())
    with counted_runs(host) as runs:

        def cost(address: str) -> int:
            with listen_tcp(address, 80) as listener:
                before = runs()
                with connect_tcp(address, 80, CLIENT) as client, listener.accept()[0] as accepted:
                    client.shutdown(socket.SHUT_WR)
                    assert accepted.recv(1) == b""
                    accepted.shutdown(socket.SHUT_WR)
                    assert client.recv(1) == b""
                return runs() - before

        assert cost(str(VIP)) == cost("127.0.0.1") > 0


def test_udp_opens_at_bind_and_closes_with_the_socket(host: ListenHost) -> None:
    host.define(hosted())
    receiver = bind_udp(str(VIP), 53)
    seen = opened(host)
    assert (seen.address, seen.protocol, seen.port) == (VIP, Protocol.UDP, 53)
    receiver.close()
    assert host.event() == Closed(seen.cookie)


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_udp_that_connects_is_no_listener_any_more(host: ListenHost, address: str) -> None:
    host.define(hosted(ports="53"))
    with bind_udp(address, 53) as receiver:
        cookie = opened(host).cookie
        receiver.connect(("::1" if address == "::" else "127.0.0.1", 9))
        assert host.event() == Closed(cookie)
    host.quiet()


def test_udp_that_only_sends_is_no_listener(host: ListenHost) -> None:
    host.define(hosted(ports="1-65535"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", 9))
        host.kernel.reconcile()
        host.quiet()


def test_udp_bind_that_fails_is_no_listener(host: ListenHost) -> None:
    host.define(hosted())
    with bind_udp(str(VIP), 53):
        opened(host)
        with pytest.raises(OSError, match="in use"):
            bind_udp(str(VIP), 53)
        host.quiet()


def test_other_namespaces_are_not_ours(host: ListenHost) -> None:
    host.define(hosted(ports="80"))
    with fresh_netns(f"{VIP}/32"):
        listen_tcp(str(VIP), 80).close()
        listen_tcp("0.0.0.0", 80).close()
        bind_udp(str(VIP), 80).close()
    host.quiet()


def test_counters(host: ListenHost) -> None:
    host.define(hosted())
    listen_tcp(str(VIP), 80).close()
    counters = host.kernel.counters()
    assert (counters["opened"], counters["closed"]) == (1, 1)
    assert counters["events_lost"] == counters["sockets_full"] == 0
