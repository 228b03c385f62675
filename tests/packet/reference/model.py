# SPDX-License-Identifier: Apache-2.0
"""The whole decision about a packet, for one distributor.

Written from the words and not from the C: the steps are those of bpf/README.md, what is on the
wire that of the RFCs that each file names. So where the two differ, the words say who is wrong.
"""

from __future__ import annotations

from dataclasses import replace

from anyport.decide.rows import Family, Path, RouteKind, RouteRow
from anyport.model import Protocol
from tests.packet.reference.connections import Clock, Connections
from tests.packet.reference.decision import Action, Decision, Settled, dropped, passed
from tests.packet.reference.extensions import unwrapped
from tests.packet.reference.fragments import Fragments
from tests.packet.reference.hashing import hash_of
from tests.packet.reference.icmp import ICMP, read_error
from tests.packet.reference.ip import ARP, Frame, Packet, is_mapped, read_ip, sound
from tests.packet.reference.neighbours import decide_arp, decide_ndp, is_neighbour_discovery
from tests.packet.reference.tables import NO_ROUTE, Tables, Vip, leads_on
from tests.packet.reference.transport import TCP, UDP, Flow, Sent, read_transport
from tests.packet.reference.tunnel import encapsulate


class Model:
    def __init__(self, hash_key: int, clock: Clock) -> None:
        """`hash_key`: 128 bits, the cluster's."""
        self._hash_key = hash_key
        self.connections = Connections(clock)
        self.fragments = Fragments(clock)
        self.tables = Tables(self.connections, self.fragments)

    def decide(self, raw: bytes, gso_size: int = 0) -> Decision:
        """What becomes of the frame; the connections and fragments change by it."""
        try:
            return self._decide(Frame(raw, gso_size))
        except Settled as settled:
            return settled.decision

    def age(self, seconds: float) -> None:
        self.connections.age(seconds)
        self.fragments.age(seconds)

    # ---- 1-3: is it ours? ----

    def _decide(self, frame: Frame) -> Decision:
        if frame.type == ARP:
            return decide_arp(self.tables, frame)
        packet = read_ip(frame)
        if not packet or is_mapped(packet.destination):
            raise passed("not_ours")
        if packet.family is Family.IPV6 and is_neighbour_discovery(frame, packet):
            return decide_ndp(self.tables, frame)
        vip = self.tables.of_vip.get(packet.destination)
        if vip is None or frame.destination != vip.mac:
            raise passed("not_ours")
        try:
            decision = self._decide_vip(frame, packet, vip)
        except Settled as settled:
            decision = settled.decision
        return replace(decision, row=vip.row)

    def _admit(self, frame: Frame, vip: Vip) -> None:
        """Neither what another distributor sent here, nor anything while another is believed."""
        if self.tables.is_peer(frame.source, vip):
            raise passed("distributed")
        announcer = self.tables.fences.get(vip.row)
        if announcer == frame.source:
            raise passed("fenced")
        if announcer:
            raise dropped("drop_fenced")

    # ---- 4: to the transport header ----

    def _decide_vip(self, frame: Frame, packet: Packet, vip: Vip) -> Decision:
        self._admit(frame, vip)
        packet = unwrapped(sound(frame, packet))
        decision = self._decide_parts(frame, packet, vip)
        hop = self.tables.hop(decision.slot, packet.family)
        if hop is None or decision.action is not Action.ENCAPSULATE:
            return decision
        return encapsulate(decision, frame, packet, hop)

    def _decide_parts(self, frame: Frame, packet: Packet, vip: Vip) -> Decision:
        if packet.fragment.offset:
            slot = self.fragments.follow(packet, frame.raw)
            return self._send_to("fragment", slot, packet)
        if not packet.fragment.is_part:
            return self._decide_payload(packet, vip)
        try:
            decision = self._decide_payload(packet, vip)
        except Settled as settled:
            decision = settled.decision
        return self.fragments.place_first(packet, frame.raw, decision)

    def _decide_payload(self, packet: Packet, vip: Vip) -> Decision:
        if packet.protocol == ICMP[packet.family]:
            return self._decide_error(packet, vip)
        if packet.protocol not in (TCP, UDP):
            raise passed("other_protocol")
        sent = read_transport(packet)
        verdict, slot = self._target_of(sent, self._route(sent.flow, vip), vip)
        return self._send_to(verdict, slot, packet)

    def _route(self, flow: Flow, vip: Vip) -> RouteRow:
        if vip.row not in self.tables.routes:
            raise dropped("drop_table")
        return self.tables.routes[vip.row].get((flow.protocol, flow.port), NO_ROUTE)

    # ---- 5-10: to whom? ----

    def _target_of(self, sent: Sent, route: RouteRow, vip: Vip) -> tuple[str, int | None]:
        if route.kind == RouteKind.UNIQUE:
            self._owned(sent, route, vip)
            return "unique", route.target
        slot = self.connections.follow(vip.row, sent, route, vip.udp_idle)
        if slot is not None:
            return "established", slot
        if vip.gathering and not sent.opens and not sent.resets:
            raise dropped("drop_gathering")
        if vip.absent is not None and not vip.gathering and not sent.opens:
            return "absent", vip.absent
        if route.kind == RouteKind.NONE:
            raise passed("no_route")
        number = hash_of(self._hash_key, sent.flow)
        if not sent.opens:
            return "hashed", self.tables.hashed(route, number)
        slot = self.tables.selected(route, number)
        self._remember(sent.flow, vip, slot)
        return "fallback" if route.kind == RouteKind.FALLBACK else "selected", slot

    def _owned(self, sent: Sent, route: RouteRow, vip: Vip) -> None:
        """Remembered: the port may be distributed later (R6)."""
        slot = self.connections.follow(vip.row, sent, route, vip.udp_idle)
        if slot != route.target and (sent.opens or slot is not None):
            self._remember(sent.flow, vip, route.target)

    def _remember(self, flow: Flow, vip: Vip, slot: int | None) -> None:
        """Unless the tables are at odds, and there is no such host."""
        if slot is not None and slot in self.tables.hosts:
            self.connections.remember(vip.row, flow, slot)

    def _decide_error(self, packet: Packet, vip: Vip) -> Decision:
        """To whoever sent the packet inside."""
        flow = read_error(packet)
        route = self._route(flow, vip)
        slot = self.connections.slot(vip.row, flow)
        if route.kind == RouteKind.UNIQUE:
            slot = route.target
        elif (
            slot is None
            and vip.absent is not None
            and not vip.gathering
            and flow.protocol is Protocol.TCP
        ):
            slot = vip.absent
        elif slot is None and route.kind == RouteKind.NONE:
            raise passed("no_route")
        elif slot is None:
            slot = self.tables.hashed(route, hash_of(self._hash_key, flow))
        return self._send_to("icmp_error", slot, packet)

    # ---- how? ----

    def _send_to(self, verdict: str, slot: int | None, packet: Packet) -> Decision:
        hop = self.tables.hop(slot, packet.family)
        if hop is None or hop.path not in list(Path):
            raise dropped("drop_table", slot if hop else None)
        if hop.path == Path.LOCAL:
            raise passed(verdict, slot)
        if not leads_on(hop, packet.family):
            raise dropped("drop_no_path", slot)
        if packet.ttl <= 1:  # RFC 1812 5.3.1, RFC 8200 3: R9, it is one hop
            raise dropped("drop_ttl", slot)
        action = Action.ENCAPSULATE if hop.path == Path.IPIP else Action.FORWARD
        return Decision(verdict, action, slot, chosen=verdict)
