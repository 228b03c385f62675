# SPDX-License-Identifier: Apache-2.0
"""`anyport counters`: what the programs of this host have counted, as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anyport.decide.rows import NO_HOP, HostRow, Path
from anyport.kernel import abi
from anyport.kernel.abi import Verdict
from anyport.kernel.counters import Count
from anyport.kernel.distribute import DistributorKernel
from anyport.model.definition import Address

Row = dict[str, Any]

PAST = "(past)"
"""The target of what went to hosts, or by paths, that are no more."""
ROUTES = {
    Verdict.UNIQUE: "unique",
    Verdict.SELECTED: "distributed",
    Verdict.FALLBACK: "distributed",
    Verdict.HASHED: "distributed",
    Verdict.ABSENT: "absent",
    Verdict.TABLE_FULL: "distributed",
    Verdict.ESTABLISHED: "connection",
    Verdict.NO_ROUTE: "none",
}
"""What decided; other verdicts do not tell, or come before a route is looked for."""
TO_TARGET = {*ROUTES, Verdict.ICMP_ERROR, Verdict.FRAGMENT} - {Verdict.NO_ROUTE}
ANSWERED = {Verdict.ARP_REPLIED, Verdict.NDP_REPLIED, Verdict.TOO_BIG}
AGAIN = {Verdict.FRAGMENT_HELD, Verdict.FRAGMENTS_RELEASED}
"""Kept, or put back into the queue: each is counted once more when its turn comes."""
PASSED = {
    Verdict.NOT_OURS,
    Verdict.ARP_IGNORED,
    Verdict.NDP_IGNORED,
    Verdict.DISTRIBUTED,
    Verdict.FENCED,
    Verdict.MTU_LEARNT,
    Verdict.NO_ROUTE,
    Verdict.OTHER_PROTOCOL,
}
DROPPED = {verdict for verdict in Verdict if verdict.name.startswith("DROP_")}
OUTCOMES = {
    "to_targets": TO_TARGET,
    "passed": PASSED,
    "answered": ANSWERED,
    "dropped": DROPPED,
}


class CounterRows:
    """Read from the kernel when asked for.

    `events`: what listen.bpf.c counted. `tunnelled`: packets, by what target.bpf.c did to them.
    `name_of`: the present name of a host slot.
    """

    def __init__(
        self,
        packets: DistributorKernel,
        events: Callable[[], Mapping[str, int]],
        tunnelled: Callable[[], Mapping[str, int]],
        name_of: Callable[[int], str | None],
    ) -> None:
        self._packets = packets
        self._events = events
        self._tunnelled = tunnelled
        self._name_of = name_of

    def rows(self, only: Address | None = None, zero: bool = False) -> list[Row]:
        """By program, VIP, target and reason. `zero`: also reasons that were never counted.

        Of one VIP, `only` what is counted by VIP.
        """
        rows = self.packets(zero and only is None)
        if only is not None:
            return [row for row in rows if row["vip"] == str(only)]
        return [*rows, *self._tunnel_rows(zero), *self._event_rows(zero)]

    def packets(self, zero: bool = False) -> list[Row]:
        """Those of the packet program."""
        known, hosts = self._packets.known_vips(), self._packets.hosts()
        counts = self._packets.counts()
        if zero:
            never = set(Verdict) - {count.verdict for count in counts}
            counts += [Count(abi.NO_ROW, abi.NO_SLOT, verdict, 0, 0) for verdict in never]
        vips = [(None if c.row == abi.NO_ROW else known[c.row], c) for c in counts]
        return [self._packet_row(count, vip, hosts) for vip, count in sorted(vips, key=_order)]

    def _packet_row(self, count: Count, vip: Address | None, hosts: dict[int, HostRow]) -> Row:
        host = hosts.get(count.slot)
        path = (host.hop(vip) if host and vip else NO_HOP).path
        return {
            "program": "distribute",
            "vip": str(vip) if vip else None,
            "route": ROUTES.get(count.verdict),
            "path": None if path == Path.NONE else Path(path).name.lower(),
            "target": self._target(count.slot, host),
            "reason": count.verdict.name.lower(),
            "packets": count.packets,
            "bytes": count.bytes,
            "events": None,
        }

    def _target(self, slot: int, host: HostRow | None) -> str | None:
        """A departed host by its address: it has the slot until another needs it.

        By its number a slot that has no host, or several would be one row twice.
        """
        if slot == abi.PAST_SLOT:
            return PAST
        if slot == abi.NO_SLOT:
            return None
        addresses = sorted(map(str, host.addresses)) if host else []
        return self._name_of(slot) or next(iter(addresses), f"slot {slot}")

    def _event_rows(self, zero: bool) -> list[Row]:
        """What listen.bpf.c saw and did, of this host; not by VIP."""
        return [
            _of_host("listen", name) | {"packets": None, "bytes": None, "events": events}
            for name, events in self._events().items()
            if events or zero
        ]

    def _tunnel_rows(self, zero: bool) -> list[Row]:
        """Where the IPIP path ends; not by VIP."""
        return [
            _of_host("target", name) | {"packets": packets, "bytes": None, "events": None}
            for name, packets in self._tunnelled().items()
            if packets or zero
        ]

    def summary(self) -> dict[str, int]:
        """Packets by what became of them; `passed`: not distributed, so the local stack's."""
        packets = self._packets.counters()
        return {
            name: sum(packets[verdict.name.lower()] for verdict in verdicts)
            for name, verdicts in OUTCOMES.items()
        }


def _of_host(program: str, reason: str) -> Row:
    absent = dict.fromkeys(("vip", "route", "path", "target"))
    return {"program": program, **absent, "reason": reason}


def _order(counted: tuple[Address | None, Count]) -> tuple[int, bytes, int, Verdict]:
    """By VIP, those of none last; by target, those of none last; by verdict."""
    vip, count = counted
    version, packed = (vip.version, vip.packed) if vip else (9, b"")
    return version, packed, count.slot, count.verdict
