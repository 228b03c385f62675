# SPDX-License-Identifier: Apache-2.0
"""Hand-made histories: each violation is seen, and what a fault excuses is excused."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import violations
from tests.chaos.recorder import Event, Reader, Recorder, read

VIP = "10.77.0.80"
BEGIN, END = 100.0, 200.0
"""Everything is steady in between, unless a fault is in the history."""

numbers = count(1)


def event(at: float, kind: str, **fields: Any) -> Event:
    return {"at": at, "kind": kind, **fields}


def steady(begin: float = BEGIN, end: float = END) -> list[Event]:
    return [event(begin, "steady", phase="begin"), event(end, "steady", phase="end")]


def fault(begin: float, end: float, what: str, *hosts: str) -> list[Event]:
    told = {"number": next(numbers), "what": what, "hosts": hosts, "why": ""}
    return [
        event(begin, "fault", phase="begin", **told),
        event(end, "fault", phase="end", **told),
    ]


def opened(at: float, host: str, port: int, protocol: str = "tcp", **more: Any) -> Event:
    told = {"id": f"{host} {port}", "protocol": protocol, "zero": False, "lasting": True}
    return event(at, "opened", host=host, port=port, **{**told, **more})


ELSEWHERE = opened(90, "host3", 9)
"""Without it there would be no host but those of the test."""


def closed(at: float, host: str, port: int) -> Event:
    return event(at, "closed", id=f"{host} {port}")


def given(at: float, host: str, port: int) -> Event:
    return opened(at, host, port, zero=True)


def probe(at: float, port: int, answer: str | None, error: str = "refused", **more: Any) -> Event:
    told = {"protocol": "tcp", "began": at - 0.1, "error": None if answer else error}
    return event(at, "probe", port=port, answer=answer, **{**told, **more})


def connection(began: float, at: float, host: str = "host1", **more: Any) -> Event:
    told = {"service": "echo", "port": 7, "client": 5000, "connected": True, "corrupt": False}
    return event(at, "connection", began=began, answer=host, **{**told, **more})


def broken(began: float, at: float, host: str = "host1", **more: Any) -> Event:
    return connection(began, at, host, ok=False, error="reset", **more)


def flow(*answers: tuple[float, float, str], **more: Any) -> Event:
    told = {"port": 53, "client": 6000, "lost": [], "corrupt": False}
    return event(answers[-1][1], "flow", began=answers[0][0], answers=answers, **{**told, **more})


def forwarded(begin: float, end: float, host: str) -> list[Event]:
    """All the time."""
    tenths = range(int(begin * 10), int(end * 10))
    return [event((t + 1) / 10, "forwarded", host=host, first=t / 10, count=5) for t in tenths]


def state(host: str, *ports: list[Any], distributor: str = "host1", term: int = 7) -> Event:
    return {
        "distributes": [VIP] if host == distributor else [],
        "terms": {VIP: [distributor, term]},
        "table": {"ports": list(ports)},
    }


def seen(at: float, host: str, *ports: list[Any], **more: Any) -> Event:
    return event(at, "seen", host=host, state=state(host, *ports, **more))


def rules(*events: Event | list[Event]) -> list[str]:
    flat = [one for some in events for one in (some if isinstance(some, list) else [some])]
    return [violation.rule for violation in violations(flat)]


# ---- connections ----


def test_a_good_connection_is_no_violation() -> None:
    accepted = event(110.0, "accepted", host="host1", port=7, client=5000)
    assert rules(steady(), accepted, connection(110, 130, ok=True, error=None)) == []


def test_a_connection_that_two_hosts_accepted() -> None:
    accepted = [
        event(at, "accepted", host=host, port=7, client=5000)
        for at, host in ((110.1, "host1"), (120.0, "host2"))
    ]
    good = connection(110, 130, ok=True, error=None)
    assert rules(steady(), accepted, good) == ["a connection moved"]
    assert rules(steady(), accepted, fault(109, 131, "lan_cut", "host1"), good) == [
        "a connection moved"
    ]
    later = event(140.0, "accepted", host="host2", port=7, client=5000)  # the port, used again
    assert rules(steady(), accepted[0], later, good) == []


def test_a_client_port_that_is_used_again_at_once() -> None:
    first = event(110.1, "accepted", host="host1", port=7, client=5000)
    soon = event(130.3, "accepted", host="host2", port=7, client=5000)
    history = [opened(90, "host2", 7), first, soon, connection(110, 130, ok=True, error=None)]
    of_another = probe(130.4, 7, "host2", began=130.2, client=5001)
    assert rules(history, of_another) == ["a connection moved"]  # told late
    assert rules(history, probe(130.4, 7, "host2", began=130.2, client=5000)) == []
    assert rules(history, connection(130.2, 140, "host2", ok=True, error=None)) == []


def test_a_connection_that_broke() -> None:
    assert rules(steady(), broken(110, 130)) == ["a connection broke"]


@pytest.mark.parametrize(
    "what", ["kill", "freeze", "stop", "upgrade", "away", "drain", "method", "compact"]
)
@pytest.mark.parametrize("hosts", [("host1",), ("host1", "host2")])
def test_what_excuses_no_broken_connection(what: str, hosts: tuple[str, ...]) -> None:
    assert rules(fault(120, 125, what, *hosts), broken(110, 130)) == ["a connection broke"]


@pytest.mark.parametrize(
    "what", ["etcd_kill", "etcd_freeze", "etcd_empty", "etcd_cut", "etcd_gone"]
)
def test_etcd_excuses_no_broken_connection(what: str) -> None:
    assert rules(fault(120, 125, what), broken(110, 130)) == ["a connection broke"]


@pytest.mark.parametrize("what", ["lan_cut", "server_kill"])
def test_a_fault_of_its_host_excuses_it_while_it_lasts(what: str) -> None:
    assert rules(fault(120, 125, what, "host1"), broken(110, 130)) == []
    assert rules(fault(120, 125, what, "host2"), broken(110, 130)) == ["a connection broke"]
    assert rules(fault(105, 109, what, "host1"), broken(110, 130)) == ["a connection broke"]
    assert rules(fault(131, 135, what, "host1"), broken(110, 130)) == ["a connection broke"]


def test_a_cut_on_the_way_excuses_it() -> None:
    way = forwarded(109, 119, "host3")
    assert rules(way, fault(120, 125, "lan_cut", "host3"), broken(110, 130)) == []
    assert rules(way, fault(120, 125, "server_kill", "host3"), broken(110, 130)) != []


def test_a_takeover_excuses_those_of_several_hosts_that_were_no_members() -> None:
    listening = [
        given(1, host, 40000 + number) for number, host in enumerate(("host1", "host2", "host3"))
    ]
    way = [
        *listening,
        *forwarded(105, 120, "host2"),
        event(120.5, "announced", host="host3"),
    ]
    one = fault(115, 116, "kill", "host1")
    absent = [*one, *fault(115, 116, "freeze", "host3")]
    assert rules(way, one, broken(110, 130)) == ["a connection broke"]
    assert rules(way, broken(110, 130)) == ["a connection broke"]
    assert rules(absent, broken(110, 130)) == ["a connection broke"]
    assert rules(way, absent, broken(110, 130)) == []
    assert rules(way, fault(115, 116, "etcd_freeze"), broken(110, 130)) == []
    assert rules(way, fault(115, 116, "kill", "host2", "host3"), broken(110, 130)) != []
    assert rules(way, fault(115, 116, "drain", "host1", "host2"), broken(110, 130)) != []
    assert rules(way, absent, broken(122, 130)) == ["a connection broke"]
    assert rules(way, absent, broken(110, 119)) == ["a connection broke"]
    settled = event(118, "settled")
    assert rules(way, absent, settled, broken(119, 130)) == ["a connection broke"]


def test_changed_bytes_are_never_excused() -> None:
    changed = connection(110, 130, ok=False, error=None)
    changed["corrupt"] = True
    assert rules(fault(105, 135, "lan_cut", "host1"), changed) == ["bytes changed"]
    assert rules(flow((110, 130, "host1"), corrupt=True)) == ["bytes changed"]


def test_a_new_connection_that_is_owed() -> None:
    refused = broken(150, 151, connected=False)
    assert rules(steady(), opened(120, "host2", 7), refused) == ["a listener is not reached"]
    assert rules(ELSEWHERE, opened(120, "host2", 7), refused) == []
    assert rules(steady(), refused) == []


# ---- flows ----


def test_a_flow_that_moved() -> None:
    moved = flow((110, 120, "host1"), (120.2, 130, "host2"))
    assert rules(moved) == ["a flow moved"]
    assert rules(fault(119, 121, "lan_cut", "host1"), moved) == []
    assert rules(fault(119, 121, "method"), moved) == ["a flow moved"]
    assert rules(fault(119, 121, "compact"), moved) == ["a flow moved"]
    settled = event(119.5, "settled")
    assert rules(fault(110, 119, "stop", "host1"), event(125, "settled"), moved) == []
    assert rules(fault(110, 118, "stop", "host1"), settled, moved) == []  # a lease may end yet
    assert rules(fault(110, 117, "stop", "host1"), settled, moved) == ["a flow moved"]
    assert rules(fault(110, 119, "stop", "host2"), moved) == ["a flow moved"]
    assert rules(fault(110, 119, "etcd_freeze"), moved) == []
    assert rules(*(event(at, "announced", host=f"host{at}") for at in (119, 120)), moved) == []
    assert rules(*(event(at, "announced", host=f"host{at}") for at in (109, 110)), moved) != []


def test_a_datagram_without_an_answer() -> None:
    lost = flow((110, 130, "host1"), lost=[120.0])
    assert rules(steady(), lost) == ["a datagram was lost"]
    assert rules(lost) == []


# ---- ports and listeners ----


def test_a_listener_that_is_not_reached() -> None:
    missed = probe(150, 8001, None)
    assert rules(steady(), opened(120, "host1", 8001), missed) == ["a listener is not reached"]
    assert rules(steady(), opened(149, "host1", 8001), missed) == []  # not known to all yet
    near = steady(149.95)  # a fault was before
    assert rules(ELSEWHERE, near, opened(120, "host1", 8001), missed) == []
    assert rules(steady(), opened(120, "host1", 8001), closed(149.95, "host1", 8001), missed) == []
    assert rules(steady(), opened(120, "host1", 8001), probe(150, 8001, "host1")) == []


def test_who_has_just_closed_a_port_may_be_chosen_and_refuses() -> None:
    two: list[Event] = [*steady(), opened(120, "host1", 8001), opened(120, "host2", 8001)]
    missed, lost = probe(150, 8001, None), broken(149.9, 150, port=8001, connected=False)
    for one in (missed, lost | {"error": "refused"}):
        assert rules(two, closed(149.8, "host2", 8001), one) == []
        assert rules(two, one) == ["a listener is not reached"]
        assert rules(two, closed(147, "host2", 8001), one) == ["a listener is not reached"]
        assert rules(two, closed(150.1, "host2", 8001), one) == ["a listener is not reached"]
    unanswered = probe(150, 8001, None, "timeout")
    assert rules(two, closed(149.8, "host2", 8001), unanswered) != []
    given_twice = [given(120, "host1", 40000), given(120, "host2", 40000)]
    assert "a listener is not reached" in rules(
        steady(), given_twice, closed(149.8, "host2", 40000), probe(150, 40000, None)
    )


def test_a_lease_may_end_after_the_fault_that_it_was_not_renewed_in() -> None:
    listener, missed = opened(120, "host1", 8001), probe(150, 8001, None)
    cut = fault(147, 148, "lan_cut", "host1")
    again = [event(148.9, "settled"), *steady(148.9)]
    assert rules(ELSEWHERE, again, listener, cut, missed) == []
    assert rules(ELSEWHERE, again, listener, cut, probe(150.7, 8001, None)) == [
        "a listener is not reached"
    ]
    assert rules(ELSEWHERE, again, listener, fault(146, 147, "lan_cut", "host1"), missed) == [
        "a listener is not reached"
    ]


def test_what_every_host_has_is_reached_whatever_happens() -> None:
    everywhere = [opened(120, host, 80) for host in ("host1", "host2")]
    missed = probe(150, 80, None, "timeout")
    assert rules(everywhere, missed) == ["a listener is not reached"]
    assert rules(everywhere, fault(140, 151, "kill", "host1", "host2"), missed) != []
    assert rules(everywhere, fault(140, 151, "lan_cut", "host1"), missed) == []
    assert rules(everywhere, fault(140, 145, "lan_cut", "host1"), missed) == []
    settled = event(147, "settled")
    assert rules(everywhere, fault(140, 145, "lan_cut", "host1"), settled, missed) != []
    assert rules(everywhere, closed(149, "host2", 80), missed) == []


def test_definitions_that_nobody_remembers() -> None:
    both = [opened(120, host, 80) for host in ("host1", "host2")]
    history = [*both, probe(150, 80, None, "timeout"), broken(140, 150, "host1")]
    missed = ["a connection broke", "a listener is not reached"]
    emptied = fault(142, 150, "etcd_empty")
    one = fault(141, 143, "kill", "host1")
    assert sorted(rules(history, emptied)) == missed
    assert sorted(rules(history, one)) == missed
    assert rules(history, emptied, one) == []
    assert rules(history, emptied, event(146, "daemon", host="host2")) == []
    assert rules(history, emptied, fault(140, 140.1, "upgrade", "host1")) == []
    assert sorted(rules(history, emptied, fault(145, 146, "freeze", "host2"))) == missed
    assert sorted(rules(history, emptied, fault(130, 135, "kill", "host1"))) == missed
    settled = [*fault(120, 128, "etcd_empty"), *fault(121, 123, "kill", "host1", "host2")]
    assert sorted(rules(history, settled, event(130, "settled"))) == missed


def test_a_given_port_is_reached_at_once() -> None:
    assert rules(steady(), given(149.8, "host1", 40000), probe(150, 40000, None)) == [
        "a listener is not reached"
    ]


def test_a_given_port_is_reached_whatever_happens() -> None:
    known = [ELSEWHERE, given(120, "host1", 40000), probe(150, 40000, None)]
    assert rules(known) == ["a listener is not reached"]
    assert rules(known, fault(140, 151, "kill", "host1")) == ["a listener is not reached"]
    assert rules(known, fault(140, 151, "lan_cut", "host2")) == []
    takeover = [event(130, "announced", host="host2"), event(145, "announced", host="host3")]
    assert rules(known, takeover) == ["a listener is not reached"]


def test_a_datagram_on_its_way_while_the_vip_moves() -> None:
    given_port = opened(120, "host1", 40000, "udp", zero=True)
    sent = {"protocol": "udp", "began": 145.0}
    lost = probe(150, 40000, None, "timeout", **sent)
    before, after, later = (
        [event(at, "announced", host=host) for at, host in ((130, "host2"), (when, "host3"))]
        for when in (144.95, 145.05, 145.2)
    )
    missed = ["a listener is not reached"]
    assert rules(ELSEWHERE, given_port, before, lost) == []
    assert rules(ELSEWHERE, given_port, after, lost) == []
    assert rules(ELSEWHERE, given_port, later, lost) == missed
    tcp = probe(150, 40000, None, "timeout", began=145.0)
    assert rules(ELSEWHERE, given(120, "host1", 40000), after, tcp) == missed


def test_who_answers_and_does_not_listen() -> None:
    answered = probe(150, 8001, "host1")
    wrong = ["not the owner of the port"]
    assert rules(answered) == wrong
    assert rules(opened(120, "host2", 8001), answered) == wrong
    assert rules(opened(120, "host1", 8001), closed(130, "host1", 8001), answered) == wrong
    assert rules(opened(120, "host1", 8001), event(130, "died", host="host1"), answered) == wrong
    assert rules(opened(120, "host1", 8001), closed(149.95, "host1", 8001), answered) == []


def test_a_port_without_a_listener_refuses() -> None:
    unanswered = probe(152, 8001, None, "timeout", began=149.5)
    assert rules(steady(), unanswered) == ["not refused"]
    assert rules(steady(), opened(149, "host1", 8001), unanswered) == []
    assert rules(unanswered) == []


def test_a_port_in_two_hands() -> None:
    two = [given(120, "host1", 40000), given(130, "host2", 40000)]
    assert rules(two) == ["a port in two hands"]
    assert rules(two, closed(129, "host1", 40000)) == []
    assert rules(two, event(129, "died", host="host1")) == []
    assert rules(two, closed(131, "host1", 40000)) == ["a port in two hands"]
    assert rules(given(120, "host1", 40000), opened(130, "host2", 40000, "udp", zero=True)) == []
    assert rules(given(120, "host1", 40000), given(130, "host1", 40000)) == []
    assert rules(two, fault(121, 150, "away", "host1")) == []
    assert rules(two, fault(121, 150, "away", "host3")) == ["a port in two hands"]
    assert rules(two, fault(110, 119, "etcd_gone", "host1")) == ["a port in two hands"]


def test_a_bind_that_was_given_no_port() -> None:
    none = event(150, "refused", host="host1", zero=True, errno=98)
    assert rules(steady(), none) == ["no port was given"]
    assert rules(none) == []
    assert rules(steady(), {**none, "zero": False}) == []
    ftp = broken(140, 151, service="ftp")
    assert rules(none, ftp) == []
    assert rules(none, broken(140, 151, "host2", service="ftp")) == ["a connection broke"]
    assert rules(none, broken(140, 151)) == ["a connection broke"]


def test_a_wildcard_that_was_reached() -> None:
    leaked = event(150, "leaked", host="host1", protocol="tcp")
    assert rules(leaked) == ["a wildcard was reached"]
    assert rules(fault(140, 160, "kill", "host1"), leaked) == ["a wildcard was reached"]
    assert rules(probe(150, 22, "SSH-2.0-host1")) == ["not the owner of the port"]


# ---- distributors and tables ----


def test_two_that_forward() -> None:
    old = forwarded(110, 130, "host1")
    assert rules(old, forwarded(125, 140, "host2")) == ["two hosts forwarded"]
    assert rules(old, forwarded(129, 140, "host2")) == []
    assert rules(old, forwarded(131, 140, "host2")) == []


def test_a_term_of_two() -> None:
    first, second = seen(110, "host1"), seen(120, "host2", distributor="host2")
    assert rules(first, second) == ["a term of two"]
    assert rules(first, seen(120, "host2", distributor="host2", term=8)) == []
    emptied = fault(115, 116, "etcd_empty")
    assert rules(first, emptied, second) == []
    assert rules(first, emptied, seen(117, "host1"), second) == []  # in office in both stores
    assert rules(seen(115.5, "host1"), emptied, second) == []
    assert rules(emptied, seen(117, "host1"), second) == ["a term of two"]
    assert rules(first, seen(120, "host2")) == []  # it knows of the other's term
    assert rules(first, event(115, "seen", host="host2", state=None)) == []


def test_what_does_not_settle() -> None:
    assert rules(event(150, "unsettled", why=["host1 does not answer"])) == ["not settled"]


def test_a_table_that_is_not_true() -> None:
    settled, row = event(150, "settled"), ["tcp", 8001, "distributed", ["host2"]]
    wrong = ["a table is not true"]
    assert rules(opened(120, "host2", 8001), seen(140, "host1", row), settled) == []
    assert rules(opened(120, "host2", 8001), seen(140, "host1"), settled) == wrong
    assert rules(opened(149, "host2", 8001), seen(140, "host1"), settled) == []
    assert rules(seen(140, "host1", row), settled) == wrong
    assert rules(opened(120, "host1", 8001), seen(140, "host1", row), settled) == wrong * 2
    over = [opened(120, "host2", 8001), closed(130, "host2", 8001)]
    assert rules(over, seen(140, "host1", row), settled) == wrong
    assert rules(over, seen(135, "host1", row), seen(140, "host1"), settled) == []


def test_a_table_that_is_not_true_so_soon_after_a_fault() -> None:
    """All agree on what was: what was opened meanwhile is yet to be told."""
    row = ["tcp", 8001, "distributed", ["host2"]]
    meanwhile = [*fault(146, 149, "etcd_kill"), opened(147, "host2", 8001), event(150, "settled")]
    assert rules(meanwhile, seen(140, "host1"), seen(150.2, "host1", row)) == []
    assert rules(meanwhile, seen(140, "host1"), seen(151.6, "host1", row)) != []


def test_a_daemon_that_ended_by_itself() -> None:
    ended = event(150, "daemon", host="host1")
    assert rules(ended) == ["a daemon ended"]
    assert rules(fault(140, 145, "etcd_kill"), ended) == []
    assert rules(fault(140, 145, "drain", "host1"), ended) == ["a daemon ended"]


# ---- the history itself ----


def test_a_fault_that_was_skipped_excuses_nothing() -> None:
    told = {"number": 1, "what": "lan_cut", "hosts": ["host1"], "why": ""}
    assert rules(event(120, "fault", phase="skipped", **told), broken(110, 130)) != []


def test_what_was_told_is_read_by_time(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    first, second = Recorder(path), Recorder(path)
    reader = Reader(path)
    first.tell("died", at=2.0, host="host1")
    assert [e["host"] for e in reader.new()] == ["host1"]
    second.tell("died", at=1.0, host="host2")
    assert [e["host"] for e in reader.new()] == ["host2"]
    assert [e["at"] for e in read(path)] == [1.0, 2.0]
    assert json.loads(path.read_text().splitlines()[0]) == {
        "at": 2.0,
        "kind": "died",
        "host": "host1",
    }
