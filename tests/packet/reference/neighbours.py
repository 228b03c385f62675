# SPDX-License-Identifier: Apache-2.0
"""Who has the VIP: ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from tests.packet.reference.decision import Action, Decision, dropped, passed
from tests.packet.reference.ip import Frame, Packet, is_mapped, read_ipv6, sound
from tests.packet.reference.tables import Tables, Vip
from tests.support.neighbours import (
    ADVERTISEMENT,
    ALL_NODES,
    NOBODY,
    OVERRIDE,
    SOLICITATION,
    SOLICITED,
    SOURCE_MAC,
    TARGET_MAC,
    group_mac,
    message,
    option,
    solicited_node,
)
from tests.support.packets import BROADCAST, arp, checksum

REQUEST, REPLY = 1, 2
ETHERNET_AND_IPV4 = (1, 0x0800, 6, 4)
FIXED = 24
MOST_OPTIONS = 64
"""Bytes; a longer message is not believed."""
NDP_HOP_LIMIT = 255


def announced(tables: Tables, vip: Vip, mac: bytes, ignored: str) -> Decision:
    """bpf/README.md, 3. By ourselves: nothing to do."""
    if mac == vip.mac:
        raise passed(ignored, row=vip.row)
    tables.fences[vip.row] = mac
    raise passed("fenced", row=vip.row)


def decide_arp(tables: Tables, frame: Frame) -> Decision:
    if len(frame.packet) < 28:
        raise passed("not_ours")
    *head, operation, sender_mac, sender, _, target = struct.unpack_from(
        "!HHBBH6s4s6s4s", frame.packet
    )
    if tuple(head) != ETHERNET_AND_IPV4:
        raise passed("not_ours")
    rival = tables.of_vip.get(IPv4Address(sender))
    if rival:
        announced(tables, rival, sender_mac, "arp_ignored")
    vip = tables.of_vip.get(IPv4Address(target))
    if not vip or operation != REQUEST or frame.destination not in (vip.mac, BROADCAST):
        raise passed("not_ours")
    if tables.fenced(vip.row):
        raise dropped("arp_ignored", row=vip.row)
    answer = arp(
        REPLY,
        vip.mac,
        IPv4Address(target),
        IPv4Address(sender),
        target_mac=sender_mac,
        destination=frame.source,
        source=vip.mac,
    )
    answer += frame.packet[28:]
    return Decision("arp_replied", Action.ANSWER, row=vip.row, answer=answer)


def is_neighbour_discovery(frame: Frame, packet: Packet) -> bool:
    """Right behind the fixed header: no sender puts others before it (RFC 6980)."""
    kind = frame.packet[40:41]
    return packet.protocol == 58 and kind in (bytes([SOLICITATION]), bytes([ADVERTISEMENT]))


def decide_ndp(tables: Tables, frame: Frame) -> Decision:
    """GSO packets are TCP's and UDP's: here a length of 0 is one."""
    packet = read_ipv6(Frame(frame.raw))
    options = _believed(sound_or_ignored(frame, packet))
    kind, target = frame.packet[40], IPv6Address(frame.packet[48:64])
    told = options.get(SOURCE_MAC if kind == SOLICITATION else TARGET_MAC)
    rival = tables.of_vip.get(packet.source if kind == SOLICITATION else target)
    if rival:
        announced(tables, rival, told or frame.source, "ndp_ignored")
    vip = tables.of_vip.get(target)
    if kind == ADVERTISEMENT or not vip or not _is_asked(frame, packet, target, told, vip):
        raise passed("not_ours")
    if tables.fenced(vip.row):
        raise dropped("ndp_ignored", row=vip.row)
    answer = _advertisement(frame, packet, target, vip)
    return Decision("ndp_replied", Action.ANSWER, row=vip.row, answer=answer)


def sound_or_ignored(frame: Frame, packet: Packet) -> Packet:
    """A broken message is not ours to drop: it may be for another host here."""
    try:
        return sound(frame, packet)
    except Exception:
        raise passed("not_ours") from None


def _believed(packet: Packet) -> dict[int, bytes]:
    """RFC 4861 7.1.1 and 7.1.2. The options: type -> what the last one begins with."""
    body = packet.payload
    pseudo = struct.pack(
        "!16s16sII", packet.source.packed, packet.destination.packed, len(body), 58
    )
    if packet.ttl != NDP_HOP_LIMIT or not FIXED <= len(body) <= FIXED + MOST_OPTIONS:
        raise passed("not_ours")
    code, target = body[1], IPv6Address(body[8:24])
    solicited = int.from_bytes(body[4:8]) & SOLICITED and body[0] == ADVERTISEMENT
    if code or checksum(pseudo + body) or is_mapped(target):
        raise passed("not_ours")
    if solicited and packet.destination.is_multicast:
        raise passed("not_ours")
    return _options(body[FIXED:])


def _options(raw: bytes) -> dict[int, bytes]:
    found = {}
    while raw:
        length = raw[1] * 8 if len(raw) > 1 else 0
        if not length or length > len(raw):
            raise passed("not_ours")
        found[raw[0]] = raw[2:8]
        raw = raw[length:]
    return found


def _is_asked(
    frame: Frame, packet: Packet, target: IPv6Address, told: bytes | None, vip: Vip
) -> bool:
    """By unicast, or in the group of the target; RFC 4861 7.1.1 for who has no address yet."""
    group = solicited_node(target)
    if packet.source == NOBODY and (packet.destination != group or told):
        return False
    if packet.destination == group:
        return frame.destination in (group_mac(group), vip.mac)
    return packet.destination == target and frame.destination == vip.mac


def _advertisement(frame: Frame, packet: Packet, target: IPv6Address, vip: Vip) -> bytes:
    """RFC 4861 7.2.4: who has no address yet is told with everybody."""
    nobody = packet.source == NOBODY
    asker = ALL_NODES if nobody else IPv6Address(packet.source)
    return message(
        ADVERTISEMENT,
        vip.mac,
        target,
        asker,
        target,
        options=option(TARGET_MAC, vip.mac),
        flags=OVERRIDE if nobody else OVERRIDE | SOLICITED,
        destination_mac=group_mac(ALL_NODES) if nobody else frame.source,
    )
