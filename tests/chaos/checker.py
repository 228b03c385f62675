# SPDX-License-Identifier: Apache-2.0
"""Whether a history keeps the rules: events in, violations out. It knows anyport's promises and
nothing of anyport; what it grants, and for how long, is in bounds.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import Any

from tests.chaos import bounds
from tests.chaos.history import History, Listener, Span
from tests.chaos.recorder import Event
from tests.chaos.servers import WILDCARD


@dataclass(frozen=True)
class Violation:
    rule: str
    at: float
    what: str

    def __str__(self) -> str:
        return f"{self.at:.3f} {self.rule}: {self.what}"


def violations(events: Iterable[Event]) -> list[Violation]:
    """By time."""
    history = History(events)
    return sorted((v for rule in RULES for v in rule(history)), key=lambda v: v.at)


# ---- connections ----


def no_connection_moves(history: History) -> Iterator[Violation]:
    """Nothing excuses it: one client's port is accepted by one host, until it is used again."""
    accepted = _by_client(history.of("accepted"))
    begun = _by_client([*history.of("connection"), *history.of("probe")])
    for connection in history.of("connection"):
        client, over = (connection["port"], connection["client"]), connection["at"]
        again = min((e["began"] for e in begun[client] if e["began"] >= over), default=inf)
        life = Span(connection["began"], min(over + bounds.NEAR_SECONDS, again))
        hosts = {e["host"] for e in accepted[client] if life.begin <= e["at"] <= life.end}
        if len(hosts) > 1:
            what = f"{_connection(connection)} was accepted by {', '.join(sorted(hosts))}"
            yield Violation("a connection moved", over, what)


def _by_client(events: Iterable[Event]) -> Mapping[tuple[int, int | None], list[Event]]:
    """By the server's port and the client's."""
    found: dict[tuple[int, int | None], list[Event]] = defaultdict(list)
    for event in events:
        found[event["port"], event.get("client")].append(event)
    return found


def connections_end_well(history: History) -> Iterator[Violation]:
    for connection in history.of("connection"):
        life = Span(connection["began"], connection["at"])
        if connection["corrupt"]:
            what = f"{_connection(connection)} brought other bytes"
            yield Violation("bytes changed", life.end, what)
        elif connection["ok"]:
            continue
        elif connection["connected"] and not _is_excused(history, connection, life):
            what = f"{_connection(connection)} broke: {connection['error']}"
            yield Violation("a connection broke", life.end, what)
        elif not connection["connected"] and _is_owed(
            history, "tcp", connection["port"], life, connection["error"]
        ):
            what = f"{_connection(connection)} was not served: {connection['error']}"
            yield Violation("a listener is not reached", life.end, what)


def _is_excused(history: History, connection: Event, life: Span) -> bool:
    """FTP ends, too, where its server is given no port: that is judged by itself."""
    host = connection["answer"]
    return history.excuses(host, life) or (
        connection["service"] == "ftp"
        and any(
            e["zero"] and e["host"] == host and life.begin <= e["at"] <= life.end
            for e in history.of("refused")
        )
    )


def flows_stay(history: History) -> Iterator[Violation]:
    for flow in history.of("flow"):
        who = f"the flow from {flow['client']} to {flow['port']}/udp"
        if flow["corrupt"]:
            yield Violation("bytes changed", flow["at"], f"{who} brought other bytes")
        for (_, last, old), (first, _, new) in zip(
            flow["answers"], flow["answers"][1:], strict=False
        ):
            gap = Span(last, first)
            taken = bounds.FLOWS_MOVE_AT_A_TAKEOVER and history.takes_over(gap)
            if not (taken or history.excuses(old, gap) or history.removes(old, gap)):
                yield Violation("a flow moved", first, f"{who} went from {old} to {new}")
        for sent in flow["lost"]:
            if history.is_steady(Span(sent, sent + bounds.NEAR_SECONDS)):
                what = f"{who} had no answer to what was sent at {sent:.3f}"
                yield Violation("a datagram was lost", sent, what)


def _connection(connection: Event) -> str:
    return (
        f"{connection['service']} from {connection['client']} to {connection['answer']}, "
        f"begun at {connection['began']:.3f}"
    )


# ---- ports and listeners ----


def probes_meet_listeners(history: History) -> Iterator[Violation]:
    """Who answers listens; who listens is reached; where nobody does, nobody answers."""
    for probe in history.of("probe"):
        protocol, port = probe["protocol"], probe["port"]
        answer, error = probe["answer"], probe["error"]
        span = Span(probe["began"], probe["at"])
        at, where = probe["at"], f"{port}/{protocol}"
        if answer is not None:
            if not _listened(history, protocol, port, span, answer):
                what = f"{answer} answered on {where}, and did not listen"
                yield Violation("not the owner of the port", at, what)
        elif _is_owed(history, protocol, port, span, error):
            what = f"{where} has a listener, and a probe from {span.begin:.3f} met: {error}"
            yield Violation("a listener is not reached", at, what)
        elif error == "timeout" and protocol == "tcp" and _is_empty(history, port, span):
            what = f"nobody listens on {where}, and a probe was not refused but met: {error}"
            yield Violation("not refused", at, what)


def _listened(history: History, protocol: str, port: int, span: Span, host: str) -> bool:
    """In the end of it, it may have closed already."""
    life = span.wider(bounds.NEAR_SECONDS, 0)
    return any(
        listener.host == host and listener.span.overlaps(life)
        for listener in history.listening(protocol, port)
    )


def _is_owed(history: History, protocol: str, port: int, span: Span, error: str) -> bool:
    """No fault is near, and somebody listens for long enough that all must know. Where everybody
    does, or the port is one that bind(VIP, 0) gave, only what bounds.py says excuses more."""
    if error == "refused" and _was_closed(history, protocol, port, span):
        return False
    known = [
        listener
        for listener in history.listening(protocol, port)
        if listener.lasting and listener.span.holds(span.wider(_known_after(listener), 0))
    ]
    if not known or history.is_steady(span):
        return bool(known)
    if (
        history.is_cut(span)
        or history.is_forgotten(span)
        or _meets_takeover(history, protocol, span)
    ):
        return False
    if {listener.host for listener in known} == history.hosts:
        return True
    return any(listener.zero for listener in known)


def _meets_takeover(history: History, protocol: str, span: Span) -> bool:
    """One datagram."""
    sent = Span(span.begin, span.begin)
    return protocol == "udp" and history.takes_over(sent, bounds.ON_THE_WAY_SECONDS)


def _was_closed(history: History, protocol: str, port: int, span: Span) -> bool:
    """By a host that may have been chosen nevertheless, as that was not known yet. Not where
    bind(VIP, 0) gave the port: it has one host."""
    life = span.wider(bounds.KNOWN_SECONDS, 0)
    return any(
        not listener.zero and life.begin <= listener.span.end <= life.end
        for listener in history.listening(protocol, port)
    )


def _known_after(listener: Listener) -> float:
    """A port of bind(VIP, 0) is routed before it is handed out."""
    return 0.0 if listener.zero else bounds.KNOWN_SECONDS


def _is_empty(history: History, port: int, span: Span) -> bool:
    life = span.wider(bounds.KNOWN_SECONDS, 0)
    return history.is_steady(span) and not any(
        listener.span.overlaps(life) for listener in history.listening("tcp", port)
    )


def ports_are_in_one_hand(history: History) -> Iterator[Violation]:
    """What bind(VIP, 0) gave to one host, it gives to no other until that one has closed it."""
    for protocol, port in history.ports():
        given = [one for one in history.listening(protocol, port) if one.zero and not one.lost]
        for first, second in combinations(sorted(given, key=lambda one: one.span.begin), 2):
            if first.host != second.host and first.span.overlaps(second.span):
                what = f"{port}/{protocol} was given to {first.host} and to {second.host}"
                yield Violation("a port in two hands", second.span.begin, what)


def binds_are_given(history: History) -> Iterator[Violation]:
    """When all is well there is a port for each bind(VIP, 0)."""
    for event in history.of("refused"):
        if event["zero"] and history.is_steady(Span(event["at"], event["at"])):
            what = f"bind(VIP, 0) on {event['host']}: errno {event['errno']}"
            yield Violation("no port was given", event["at"], what)


def nothing_leaks(history: History) -> Iterator[Violation]:
    for event in history.of("leaked"):
        what = f"the wildcard of {event['host']}, {WILDCARD}/{event['protocol']}, by the VIP"
        yield Violation("a wildcard was reached", event["at"], what)


# ---- distributors and tables ----


def one_forwards(history: History) -> Iterator[Violation]:
    for (one, its), (other, theirs) in combinations(sorted(history.forwarding.items()), 2):
        for mine in its:
            for their in theirs:
                both = Span(max(mine.begin, their.begin), min(mine.end, their.end))
                if both.end - both.begin > bounds.BOTH_SECONDS:
                    what = f"{one} and {other} for {both.end - both.begin:.1f} s"
                    yield Violation("two hosts forwarded", both.begin, what)


def terms_have_one_host(history: History) -> Iterator[Violation]:
    """Terms are revisions of the store: where it was emptied they may begin anew, while who is in
    office goes on in the term that it had in the one before. Of which of the two a term is that is
    first seen meanwhile nobody can tell."""
    spans = [fault.span for fault in history.faults if fault.what == "etcd_empty"]
    emptied = [at for span in spans for at in (span.begin, span.end)]
    stores: dict[tuple[str, str, int], int] = {}
    holders: dict[tuple[int, str, int], str] = {}
    for event in history.of("seen"):
        for vip, (host, term) in (event["state"] or {"terms": {}})["terms"].items():
            if host != event["host"] or vip not in event["state"]["distributes"]:
                continue
            now = sum(at <= event["at"] for at in emptied)
            store = stores.setdefault((host, vip, term), now)
            holder = holders.setdefault((store, vip, term), host)
            if holder != host:
                what = f"term {term} of {vip} is {holder}'s and {host}'s"
                yield Violation("a term of two", event["at"], what)


def all_settles(history: History) -> Iterator[Violation]:
    for event in history.of("unsettled"):
        yield Violation("not settled", event["at"], "; ".join(event["why"]))


def tables_are_true(history: History) -> Iterator[Violation]:
    """When all is settled: who listens is in every host's table, and nobody else."""
    for at in history.settled:
        near = Span(at, at).wider(bounds.KNOWN_SECONDS, bounds.KNOWN_SECONDS)
        for host, state in _last_seen(history, at).items():
            rows = {
                (protocol, port, target)
                for protocol, port, _, targets in state["table"]["ports"]
                for target in targets
            }
            for wrong in _wrong(history, rows, near):
                yield Violation("a table is not true", at, f"{host}: {wrong}")


def _wrong(history: History, rows: set[tuple[str, int, str]], near: Span) -> Iterator[str]:
    there = [one for one in history.listeners if one.span.overlaps(near)]
    for one in there:
        row = (one.protocol, one.port, one.host)
        if one.lasting and one.span.holds(near) and row not in rows:
            yield f"no {one.port}/{one.protocol} of {one.host}"
    for protocol, port, host in sorted(rows - {(o.protocol, o.port, o.host) for o in there}):
        yield f"{port}/{protocol} of {host}, where nobody listens"


def _last_seen(history: History, at: float) -> Mapping[str, Any]:
    """Host -> state, of those that showed any."""
    seen = {e["host"]: e["state"] for e in history.of("seen") if e["at"] <= at}
    return {host: state for host, state in seen.items() if state is not None}


def daemons_live_on(history: History) -> Iterator[Violation]:
    """One may end by itself that starts without an etcd; a supervisor starts it again."""
    for event in history.of("daemon"):
        before = Span(event["at"] - bounds.CONVERGED_SECONDS, event["at"])
        cut = ("etcd_kill", "etcd_freeze", "etcd_empty", "etcd_cut", "etcd_gone", "lan_cut")
        if not any(f.what in cut and f.span.overlaps(before) for f in history.faults):
            yield Violation("a daemon ended", event["at"], f"that of {event['host']}, by itself")


RULES: tuple[Callable[[History], Iterator[Violation]], ...] = (
    no_connection_moves,
    connections_end_well,
    flows_stay,
    probes_meet_listeners,
    ports_are_in_one_hand,
    binds_are_given,
    nothing_leaks,
    one_forwards,
    terms_have_one_host,
    all_settles,
    tables_are_true,
    daemons_live_on,
)
