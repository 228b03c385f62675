# SPDX-License-Identifier: Apache-2.0
"""What happened in a run, from its events alone: who listened, which fault lasted how long, who
forwarded packets. Nothing here asks anybody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from math import inf

from tests.chaos import bounds
from tests.chaos.recorder import Event


@dataclass(frozen=True)
class Span:
    begin: float
    end: float

    def overlaps(self, other: Span) -> bool:
        return self.begin <= other.end and other.begin <= self.end

    def holds(self, other: Span) -> bool:
        return self.begin <= other.begin and other.end <= self.end

    def wider(self, before: float, after: float) -> Span:
        return Span(self.begin - before, self.end + after)


@dataclass(frozen=True)
class Fault:
    what: str
    hosts: tuple[str, ...]
    span: Span


@dataclass(frozen=True)
class Listener:
    """`zero`: on a port that bind(VIP, 0) gave; `lasting`: for more than one client; `lost`: its
    host may have lost the block meanwhile that the port is of."""

    host: str
    protocol: str
    port: int
    zero: bool
    lasting: bool
    lost: bool
    span: Span


@dataclass(frozen=True)
class Takeover:
    at: float
    old: str
    new: str


class History:
    def __init__(self, events: Iterable[Event]) -> None:
        self._by_kind: dict[str, list[Event]] = defaultdict(list)
        for event in sorted(events, key=lambda event: event["at"]):
            self._by_kind[event["kind"]].append(event)

    def of(self, kind: str) -> list[Event]:
        """By time."""
        return self._by_kind[kind]

    # ---- faults ----

    @cached_property
    def faults(self) -> list[Fault]:
        """Those that came to pass; one without an end lasts."""
        ends = {e["number"]: e["at"] for e in self.of("fault") if e["phase"] == "end"}
        return [
            Fault(e["what"], tuple(e["hosts"]), Span(e["at"], ends.get(e["number"], inf)))
            for e in self.of("fault")
            if e["phase"] == "begin"
        ]

    @cached_property
    def settled(self) -> list[float]:
        """When all daemons agreed, and no lease could end any more that a fault had touched."""
        return [self._no_lease_ends(e["at"]) for e in self.of("settled")]

    def _no_lease_ends(self, at: float) -> float:
        """The first time from `at` on."""
        ends = (fault.span.end for fault in self.faults if fault.span.end <= at)
        return max(at, max(ends, default=-inf) + bounds.LEASE_SECONDS)

    @cached_property
    def steady(self) -> list[Span]:
        """No fault is near, and everything is to be served."""
        told = [e["at"] for e in self.of("steady") if e["phase"] == "begin"]
        begins = map(self._no_lease_ends, told)
        ends = [e["at"] for e in self.of("steady") if e["phase"] == "end"]
        return [Span(*both) for both in zip(begins, [*ends, inf], strict=False)]

    def is_steady(self, span: Span) -> bool:
        return any(steady.holds(span) for steady in self.steady)

    def excuses(self, host: str | None, span: Span) -> bool:
        """Whether a fault, or a takeover, explains that a connection to `host` broke that lived
        for `span`. None: the host is not known, so any may have been it."""
        if self.is_forgotten(span):
            return True
        return any(
            fault.span.overlaps(span) and self._breaks(fault, host, span) for fault in self.faults
        ) or (
            bounds.SEVERAL_ABSENT_HOSTS_LOSE_CONNECTIONS_AT_A_TAKEOVER
            and self.takes_over(span)
            and self._is_one_of_several_absent(host, span)
        )

    def _is_one_of_several_absent(self, host: str | None, span: Span) -> bool:
        absent = {one for one in self.hosts if self.removes(one, span)}
        return len(absent) > 1 and (host is None or host in absent)

    def _breaks(self, fault: Fault, host: str | None, span: Span) -> bool:
        whose = bounds.BREAKS[fault.what]
        if whose == "nobody's":
            return False
        hit = host is None or host in fault.hosts
        on_the_way = whose == "the distributor's too" and not self.distributors(span).isdisjoint(
            fault.hosts
        )
        return hit or on_the_way

    def removes(self, host: str, span: Span, whats: Set[str] = bounds.REMOVES) -> bool:
        """Whether one of these faults explains that `host` was no target any more."""
        return any(
            fault.what in whats
            and host in (fault.hosts or (host,))
            and Span(fault.span.begin, self._settled_after(fault.span.end)).overlaps(span)
            for fault in self.faults
        )

    def is_forgotten(self, span: Span) -> bool:
        """Whether there may be no VIP on a host, as its daemon did not know of the definition."""
        return any(
            Span(emptied.span.begin, self._settled_after(emptied.span.end)).overlaps(span)
            for emptied in self.faults
            if emptied.what == "etcd_empty" and self._begins_anew(emptied.span)
        )

    def _begins_anew(self, during: Span) -> bool:
        """A daemon, or it was about to."""
        near = during.wider(bounds.START_SECONDS, 0)
        ended = (f for f in self.faults if f.what in bounds.ENDS_DAEMONS)
        return any(fault.span.overlaps(near) for fault in ended) or any(
            near.begin <= e["at"] <= near.end for e in self.of("daemon")
        )

    def is_cut(self, span: Span) -> bool:
        """Whether a host has no network, or the others have not settled again since."""
        return any(
            Span(fault.span.begin, self._settled_after(fault.span.end)).overlaps(span)
            for fault in self.faults
            if fault.what in bounds.CUTS
        )

    def _settled_after(self, at: float) -> float:
        return next((settled for settled in self.settled if settled >= at), inf)

    # ---- who distributes, as the wire shows it ----

    @cached_property
    def _sent(self) -> list[tuple[float, str]]:
        forwarded = [(e["first"], e["host"]) for e in self.of("forwarded")]
        return sorted([*forwarded, *((e["at"], e["host"]) for e in self.of("announced"))])

    @cached_property
    def takeovers(self) -> list[Takeover]:
        pairs = zip(self._sent, self._sent[1:], strict=False)
        return [Takeover(at, old, new) for (_, old), (at, new) in pairs if old != new]

    def takes_over(self, span: Span, seconds: float = bounds.NEAR_SECONDS) -> bool:
        """So shortly before or after it, or within."""
        near = span.wider(seconds, seconds)
        return any(near.begin <= takeover.at <= near.end for takeover in self.takeovers)

    def distributors(self, span: Span) -> set[str]:
        """All that were it during the span."""
        before = [host for at, host in self._sent if at <= span.begin][-1:]
        return {*before, *(host for at, host in self._sent if span.begin <= at <= span.end)}

    @cached_property
    def forwarding(self) -> dict[str, list[Span]]:
        """Host -> when it forwarded packets, without gaps longer than GAP_SECONDS."""
        spans: dict[str, list[Span]] = defaultdict(list)
        for event in self.of("forwarded"):
            spans[event["host"]].append(Span(event["first"], event["at"]))
        return {host: list(_merged(found)) for host, found in spans.items()}

    # ---- who listened, as the servers say ----

    @cached_property
    def listeners(self) -> list[Listener]:
        ends = self._endings()
        return [
            self._listener(
                e, Span(e["at"], next((at for at in ends[e["id"]] if at >= e["at"]), inf))
            )
            for e in self.of("opened")
        ]

    def _listener(self, opened: Event, span: Span) -> Listener:
        host, zero = opened["host"], opened["zero"]
        lost = zero and any(
            fault.what in bounds.LOSES_BLOCKS and host in fault.hosts and fault.span.overlaps(span)
            for fault in self.faults
        )
        protocol, port = opened["protocol"], opened["port"]
        return Listener(host, protocol, port, zero, opened["lasting"] and not lost, lost, span)

    def _endings(self) -> dict[str, list[float]]:
        """Listener's id -> when it was closed, or died; by time."""
        ends: dict[str, list[float]] = defaultdict(list)
        for event in self.of("closed"):
            ends[event["id"]].append(event["at"])
        for event in self.of("died"):
            for name in {e["id"] for e in self.of("opened") if e["host"] == event["host"]}:
                ends[name].append(event["at"])
        for found in ends.values():
            found.sort()
        return ends

    @cached_property
    def _by_port(self) -> dict[tuple[str, int], list[Listener]]:
        found: dict[tuple[str, int], list[Listener]] = defaultdict(list)
        for listener in self.listeners:
            found[listener.protocol, listener.port].append(listener)
        return found

    @cached_property
    def hosts(self) -> set[str]:
        """All that ever listened."""
        return {listener.host for listener in self.listeners}

    def listening(self, protocol: str, port: int) -> list[Listener]:
        """All that there ever were on the port."""
        return self._by_port.get((protocol, port), [])

    def ports(self) -> Iterator[tuple[str, int]]:
        yield from self._by_port


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    merged: Span | None = None
    for span in sorted(spans, key=lambda span: span.begin):
        if merged is not None and span.begin - merged.end <= bounds.GAP_SECONDS:
            merged = Span(merged.begin, max(merged.end, span.end))
            continue
        if merged is not None:
            yield merged
        merged = span
    if merged is not None:
        yield merged
