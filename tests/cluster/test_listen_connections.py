# SPDX-License-Identifier: Apache-2.0
"""A host's own connections to a VIP, out of its sockets, in every state that matters."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from anyport.kernel.own_connections import OwnConnections
from anyport.model.definition import Address
from tests.support.netns import fresh_netns
from tests.support.sockets import PATIENCE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VIP, OTHER = IPv4Address("10.99.0.1"), IPv4Address("10.99.0.2")
VIP6 = IPv6Address("fd99::1")
CLIENTS: dict[int, Address] = {4: IPv4Address("127.0.0.9"), 6: IPv6Address("::1")}
MUCH = bytes(8 << 20)  # more than both ends' buffers hold
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 1, 4, 5, 8, 9, 10, 11
TIME_WAIT, SYN_RECV = 6, 3  # include/net/tcp_states.h; /proc shows NEW_SYN_RECV as SYN_RECV


class Ends:
    """Connections of the test's own, both ends in one namespace."""

    def __init__(self, vip: Address, wildcard: str | None = None) -> None:
        self._stack = ExitStack()
        self.vip = vip
        self.listener = self._open(socket.AF_INET6 if wildcard or vip.version == 6 else None)
        self.listener.bind((wildcard or str(vip), 0))
        self.listener.listen()
        self.port: int = self.listener.getsockname()[1]

    def close(self) -> None:
        self._stack.close()

    def connect(self) -> tuple[socket.socket, int]:
        """The client's end, and its port."""
        client = self._open(socket.AF_INET6 if self.vip.version == 6 else None)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.bind((str(CLIENTS[self.vip.version]), 0))
        client.connect((str(self.vip), self.port))
        return client, client.getsockname()[1]

    def pair(self) -> tuple[socket.socket, socket.socket, int]:
        """The client's end, the server's, the client's port."""
        client, port = self.connect()
        server = self._stack.enter_context(self.listener.accept()[0])
        return client, server, port

    def _open(self, family: socket.AddressFamily | None) -> socket.socket:
        made = self._stack.enter_context(socket.socket(family or socket.AF_INET))
        made.settimeout(PATIENCE)
        return made


def fill(server: socket.socket) -> None:
    """Until nothing more goes out: whatever follows waits behind it."""
    server.setblocking(False)
    try:
        while True:
            server.send(MUCH)
    except BlockingIOError:
        return


@pytest.fixture
def own() -> Iterator[OwnConnections]:
    with fresh_netns(f"{VIP}/32", f"{OTHER}/32", f"{VIP6}/128"):
        own = OwnConnections()
        yield own
        own.close()


def told(own: OwnConnections, vip: Address) -> set[tuple[Address, int, int]]:
    """Client, its port, port."""
    size = len(vip.packed)
    row = struct.Struct(f"!{size}sHH")
    return {(ip_address(client), *ports) for client, *ports in row.iter_unpack(own.rows(vip))}


def state(client_port: int, port: int) -> int | None:
    """Of the server's end, as /proc/net tells."""
    for name in ("tcp", "tcp6"):
        with open(f"/proc/thread-self/net/{name}") as file:
            for line in list(file)[1:]:
                local, remote, number = line.split()[1:4]
                ends = (int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16))
                if ends == (port, client_port):
                    return int(number, 16)
    return None


def await_state(ends: Ends, client_port: int, wanted: int) -> None:
    """The peer's acknowledgement may be a moment behind what it read."""
    deadline = time.monotonic() + PATIENCE
    while state(client_port, ends.port) != wanted:
        assert time.monotonic() < deadline, f"{wanted} was expected"


def established(ends: Ends) -> int:
    return ends.pair()[2]


def half_open(ends: Ends) -> int:
    """The client's ACK does not end the handshake, its data would."""
    ends.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    return ends.connect()[1]


def fin_wait_1(ends: Ends) -> int:
    _, server, port = ends.pair()
    fill(server)
    server.shutdown(socket.SHUT_WR)
    return port


def fin_wait_2(ends: Ends) -> int:
    client, server, port = ends.pair()
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    return port


def close_wait(ends: Ends) -> int:
    client, server, port = ends.pair()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    return port


def closing(ends: Ends) -> int:
    client, server, port = ends.pair()
    fill(server)
    server.shutdown(socket.SHUT_WR)
    client.shutdown(socket.SHUT_WR)
    return port


def last_ack(ends: Ends) -> int:
    client, server, port = ends.pair()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    fill(server)
    server.close()
    return port


STATES: dict[Callable[[Ends], int], int] = {
    established: ESTABLISHED,
    half_open: SYN_RECV,
    fin_wait_1: FIN_WAIT1,
    fin_wait_2: FIN_WAIT2,
    close_wait: CLOSE_WAIT,
    closing: CLOSING,
    last_ack: LAST_ACK,
}


@pytest.mark.parametrize(
    ("bring", "wanted"), STATES.items(), ids=lambda x: getattr(x, "__name__", "")
)
@pytest.mark.parametrize("vip", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_told(own: OwnConnections, vip: Address, bring: Callable[[Ends], int], wanted: int) -> None:
    ends = Ends(vip)
    client_port = bring(ends)
    await_state(ends, client_port, wanted)
    assert told(own, vip) == {(CLIENTS[vip.version], client_port, ends.port)}
    ends.close()


@pytest.mark.parametrize("bring", [established, half_open, fin_wait_1])
def test_of_ipv4_at_a_socket_of_ipv6(own: OwnConnections, bring: Callable[[Ends], int]) -> None:
    ends = Ends(VIP, wildcard="::")
    client_port = bring(ends)
    assert told(own, VIP) == {(CLIENTS[4], client_port, ends.port)}
    assert told(own, VIP6) == set()
    ends.close()


def test_not_told(own: OwnConnections) -> None:
    """What is over, what has not begun, and what is at another address."""
    ends, others = Ends(VIP), Ends(OTHER)
    client, server, port = ends.pair()
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.close()
    server.close()
    await_state(ends, port, TIME_WAIT)
    elsewhere = established(others)
    assert told(own, VIP) == set()
    assert told(own, OTHER) == {(CLIENTS[4], elsewhere, others.port)}
    assert told(own, CLIENTS[4]) == {(OTHER, others.port, elsewhere)}
    ends.close()
    others.close()


def test_more_than_one_read_takes(own: OwnConnections) -> None:
    """The kernel gives out some 32 KiB at a time."""
    ends = Ends(VIP6)
    ends.listener.listen(4096)
    ports = {ends.pair()[2] for _ in range(2500)}
    assert told(own, VIP6) == {(CLIENTS[6], port, ends.port) for port in ports}
    ends.close()
