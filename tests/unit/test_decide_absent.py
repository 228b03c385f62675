# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import ip_address

from anyport.decide.absent import Absent, stand_in, still_absent
from anyport.model import Host


def host(name: str, last: int) -> Host:
    return Host(name, ip_address(f"10.0.0.{last}"))


A, B, C, D = (host(name, last) for last, name in enumerate("abcd", 1))
SECONDS = 600.0


def absent(
    before: dict[str, Absent], former: list[Host], hosts: list[Host], now: float, most: int = 64
) -> list[str]:
    members = {one.name: one for one in hosts}
    were = {one.name: one for one in former}
    return list(still_absent(before, were, members, now, SECONDS, most))


def test_who_was_a_member_and_is_none_is_absent_who_went_last_at_the_end() -> None:
    assert absent({}, [A, B], [A], 5.0) == ["b"]
    assert absent({"c": Absent(C, 1.0)}, [A, B], [A], 5.0) == ["c", "b"]


def test_who_is_back_is_absent_no_more() -> None:
    assert absent({"b": Absent(B, 1.0)}, [A], [A, B], 5.0) == []


def test_after_so_long_it_is_none_of_the_cluster() -> None:
    assert absent({"b": Absent(B, 1.0)}, [A], [A], 1.0 + SECONDS - 0.1) == ["b"]
    assert absent({"b": Absent(B, 1.0)}, [A], [A], 1.0 + SECONDS) == []


def test_absence_is_counted_from_its_beginning() -> None:
    found = still_absent({"b": Absent(B, 1.0)}, {}, {"a": A}, 100.0, SECONDS, 64)
    assert found["b"].since == 1.0


def test_a_host_whose_address_another_has_by_now_is_gone() -> None:
    """What is for it would go to the other."""
    assert absent({}, [A, B], [A, host("new", 2)], 5.0) == []


def test_members_come_first_where_there_is_no_room() -> None:
    """There are slots for so many hosts only: those that went last are kept."""
    before = {"c": Absent(C, 1.0), "d": Absent(D, 2.0)}
    assert absent(before, [A], [A, B], 5.0, most=3) == ["d"]
    assert absent(before, [A], [A, B], 5.0, most=2) == []
    assert absent(before, [A], [A, B], 5.0, most=1) == []


GONE = {"c": Absent(C, 1.0), "d": Absent(D, 2.0)}


def test_who_went_last_stands_in() -> None:
    assert stand_in({"a", "c", "d"}, GONE, None) == "d"
    assert stand_in({"a", "c"}, GONE, None) == "c"


def test_who_stands_in_stays() -> None:
    """Its connections would be cut, for others that may be none."""
    assert stand_in({"a", "c", "d"}, GONE, "c") == "c"
    assert stand_in({"a", "d"}, GONE, "a") == "a"
    assert stand_in({"d"}, GONE, "c") == "d"


def test_a_member_that_says_nothing_stands_in_where_nobody_is_absent() -> None:
    assert stand_in({"b", "a"}, GONE, None) == "a"
    assert stand_in(set(), GONE, None) is None
