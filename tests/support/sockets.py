# SPDX-License-Identifier: Apache-2.0
"""Sockets as programs open them."""

from __future__ import annotations

import socket

MPTCP = 262  # IPPROTO_MPTCP; Python's socket module has it from 3.12 on
PATIENCE = 10.0  # seconds until a test that waits for the network gives up


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def bind_tcp(
    address: str,
    port: int = 0,
    *,
    protocol: int = 0,
    reuse_port: bool = False,
    reuse_address: bool = False,
    v6only: bool = False,
) -> socket.socket:
    """Bound, not yet listening; closed again if the bind fails."""
    return _bind(
        socket.socket(_family(address), socket.SOCK_STREAM, protocol),
        address,
        port,
        {
            (socket.SOL_SOCKET, socket.SO_REUSEPORT): reuse_port,
            (socket.SOL_SOCKET, socket.SO_REUSEADDR): reuse_address,
            (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY): v6only,
        },
    )


def listen_tcp(
    address: str,
    port: int = 0,
    *,
    protocol: int = 0,
    reuse_port: bool = False,
    reuse_address: bool = False,
    v6only: bool = False,
) -> socket.socket:
    made = bind_tcp(
        address,
        port,
        protocol=protocol,
        reuse_port=reuse_port,
        reuse_address=reuse_address,
        v6only=v6only,
    )
    made.listen(64)
    return made


def bind_udp(
    address: str,
    port: int = 0,
    *,
    reuse_port: bool = False,
    reuse_address: bool = False,
    v6only: bool = False,
) -> socket.socket:
    return _bind(
        socket.socket(_family(address), socket.SOCK_DGRAM),
        address,
        port,
        {
            (socket.SOL_SOCKET, socket.SO_REUSEPORT): reuse_port,
            (socket.SOL_SOCKET, socket.SO_REUSEADDR): reuse_address,
            (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY): v6only,
        },
    )


def port_of(made: socket.socket) -> int:
    return int(made.getsockname()[1])


def connect_tcp(address: str, port: int, source: str | None = None) -> socket.socket:
    """Raises ConnectionRefusedError at an RST."""
    origin = (source, 0) if source else None
    return socket.create_connection((address, port), timeout=PATIENCE, source_address=origin)


def is_reachable_tcp(address: str, port: int, source: str | None = None) -> bool:
    """False: an RST came. Any other failure is an error."""
    try:
        connect_tcp(address, port, source).close()
    except ConnectionRefusedError:
        return False
    return True


def is_refused_udp(address: str, port: int) -> bool:
    """Whether a datagram is answered by ICMP port unreachable."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        probe.settimeout(PATIENCE)
        probe.connect((address, port))
        probe.send(b"?")
        try:
            probe.recv(16)
        except ConnectionRefusedError:
            return True
        return False


def echo_udp(server: socket.socket, address: str, port: int) -> bytes:
    """What comes back through `server` for a datagram sent to address:port."""
    server.settimeout(PATIENCE)
    with socket.socket(_family(address), socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect((address, port))
        client.send(b"ping")
        data, peer = server.recvfrom(16)
        server.sendto(data, peer)
        return client.recv(16)


def _bind(
    made: socket.socket, address: str, port: int, options: dict[tuple[int, int], bool]
) -> socket.socket:
    try:
        for (level, option), wanted in options.items():
            if wanted:
                made.setsockopt(level, option, 1)
        made.bind((address, port))
    except BaseException:
        made.close()
        raise
    return made
