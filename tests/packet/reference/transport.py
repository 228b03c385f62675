# SPDX-License-Identifier: Apache-2.0
"""TCP (RFC 9293) and UDP (RFC 768): the flow, and whether it begins or ends."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from anyport.model import Protocol
from anyport.model.definition import Address
from tests.packet.reference.decision import dropped
from tests.packet.reference.ip import Packet

TCP, UDP = 6, 17
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


@dataclass(frozen=True)
class Flow:
    protocol: Protocol
    client: Address
    client_port: int
    port: int


@dataclass(frozen=True)
class Sent:
    """What the client sent in its flow."""

    flow: Flow
    opens: bool
    """A SYN, or any datagram: may begin a connection."""
    closes: bool
    """A FIN or an RST."""
    resets: bool = False

    @property
    def is_syn(self) -> bool:
        return self.opens and self.flow.protocol is Protocol.TCP


def read_transport(packet: Packet) -> Sent:
    return _read_tcp(packet) if packet.protocol == TCP else _read_udp(packet)


def _read_tcp(packet: Packet) -> Sent:
    """RFC 9293 3.1; a first fragment must hold the whole header (RFC 7112, RFC 1858 2.2.2)."""
    if len(packet.payload) < 20:
        raise dropped("drop_malformed")
    client_port, port, words, flags = struct.unpack_from("!HH8xBB", packet.payload)
    header = (words >> 4) * 4
    if not 20 <= header <= len(packet.payload):
        raise dropped("drop_malformed")
    opens = flags & (SYN | ACK | RST | FIN) == SYN
    flow = Flow(Protocol.TCP, packet.source, client_port, port)
    return Sent(flow, opens, bool(flags & (FIN | RST)), bool(flags & RST))


def _read_udp(packet: Packet) -> Sent:
    """The length is that of the whole datagram, also in its first fragment."""
    if len(packet.payload) < 8:
        raise dropped("drop_malformed")
    client_port, port, length = struct.unpack_from("!HHH", packet.payload)
    if length < 8 or (length > len(packet.payload) and not packet.fragment.is_part):
        raise dropped("drop_malformed")
    return Sent(Flow(Protocol.UDP, packet.source, client_port, port), True, False)
