# SPDX-License-Identifier: Apache-2.0
"""What the mutations begin with: every frame of the packet tables, and the rest of each packet."""

from __future__ import annotations

from tests.packet import (
    test_extensions,
    test_fragments,
    test_icmp,
    test_ipip,
    test_ipv6,
    test_neighbours,
    test_verdicts,
)
from tests.packet import world as w
from tests.packet.world import VIPS, datagram, segment
from tests.support.packets import ACK, FIN, RST, SYN

TABLES = [
    test_extensions,
    test_fragments,
    test_icmp,
    test_ipip,
    test_ipv6,
    test_neighbours,
    test_verdicts,
]
PORTS = [*w.ROUTES, w.CLOSED]
LONGEST = 2200
"""Bytes of a frame. BPF_PROG_RUN takes no more than fit into a page with the skb."""


def frames() -> list[bytes]:
    tables = [case.frame for table in TABLES for case in table.CASES]
    lives = [
        segment(port, flags, vip=vip)
        for vip in VIPS
        for port in PORTS
        for flags in (SYN, ACK, FIN | ACK, RST)
    ]
    datagrams = [datagram(port, vip=vip) for vip in VIPS for port in PORTS]
    fragments = [
        frame
        for vip in VIPS
        for port in (w.SHARED, w.TURNS, w.UNIQUE, w.CLOSED)
        for frame in test_fragments.datagram(port, vip)
    ]
    return [f for f in tables + lives + datagrams + fragments if len(f) <= LONGEST]
