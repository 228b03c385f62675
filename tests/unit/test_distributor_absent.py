# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from anyport.distributor.absent import RETURN_SECONDS, AbsentHosts, Returning
from anyport.model import Host, PathWish

SECONDS = 600.0
ME = Host("me", ip_address("10.0.0.1"))
B = Host("b", ip_address("10.0.0.2"), 7, mac=bytes(range(6)), path=PathWish.IPIP)
C = Host("c", ip_address("10.0.0.3"), address6=IPv6Address("fd00::3"))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def members(*hosts: Host) -> dict[str, Host]:
    return {host.name: host for host in hosts}


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Callable[[], AbsentHosts]:
    """A daemon."""
    return lambda: AbsentHosts("me", tmp_path / "hosts.json", SECONDS, clock)


def test_a_daemon_that_starts_knows_who_was_there(start: Callable[[], AbsentHosts]) -> None:
    start().follow(members(ME, B, C))
    known = start()
    assert known.follow(members(ME))
    assert known.hosts == members(B, C)


def test_and_who_was_absent_already(start: Callable[[], AbsentHosts], clock: Clock) -> None:
    known = start()
    known.follow(members(ME, B, C))
    clock.now = 5.0
    assert known.follow(members(ME, C))
    assert not known.follow(members(ME, C))
    again = start()
    again.follow(members(ME, C))
    assert again.hosts == members(B)


def test_this_host_is_never_absent(start: Callable[[], AbsentHosts]) -> None:
    known = start()
    known.follow(members(ME, B))
    known.follow(members(B))
    assert known.hosts == {}
    assert start().hosts == {}


def test_they_are_forgotten_in_time_in_the_file_too(
    start: Callable[[], AbsentHosts], clock: Clock
) -> None:
    known = start()
    known.follow(members(ME, B))
    known.follow(members(ME))
    clock.now = SECONDS
    assert known.follow(members(ME))
    again = start()
    assert not again.follow(members(ME))


@pytest.mark.parametrize(
    "text",
    [
        *("", "nonsense", "[]", "7", '{"b": 7}', '{"b": "nonsense"}'),
        *('{"b/self": "{}"}', '{"b": "{\\"v\\":1,\\"address\\":\\"127.0.0.1\\"}"}'),
    ],
)
def test_a_file_that_cannot_be_read_is_nobody(
    start: Callable[[], AbsentHosts], tmp_path: Path, text: str
) -> None:
    (tmp_path / "hosts.json").write_text(text)
    known = start()
    known.follow(members(ME))
    assert known.hosts == {}


def test_only_root_reads_it(start: Callable[[], AbsentHosts], tmp_path: Path) -> None:
    start().follow(members(ME, B))
    assert (tmp_path / "hosts.json").stat().st_mode & 0o777 == 0o600


def test_without_a_directory_it_goes_on(
    start: Callable[[], AbsentHosts], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.rmdir()
    known = start()
    known.follow(members(ME, B))
    known.follow(members(ME))
    assert known.hosts == members(B)
    assert "absent hosts are forgotten by a restart" in caplog.text


def test_who_is_missed_on_joining_is_awaited(
    start: Callable[[], AbsentHosts], clock: Clock
) -> None:
    start().follow(members(ME, B, C))
    known = start()
    known.follow(members(ME))
    returning = Returning(known, clock)
    assert returning.awaited() == {"b", "c"}
    clock.now = RETURN_SECONDS - 0.1
    known.follow(members(ME, B))
    assert returning.awaited() == {"c"}
    clock.now = 2 * RETURN_SECONDS - 0.2
    assert (returning.awaited(), returning.is_over()) == ({"c"}, False)
    clock.now = 2 * RETURN_SECONDS - 0.1
    assert returning.awaited() == set()
    assert [returning.is_over(), returning.is_over()] == [True, False]
    assert returning.just_back()
    clock.now += RETURN_SECONDS
    assert not returning.just_back()


def test_who_goes_later_is_not_awaited(start: Callable[[], AbsentHosts], clock: Clock) -> None:
    """A takeover would be late by as much."""
    known = start()
    known.follow(members(ME, B))
    returning = Returning(known, clock)
    assert returning.awaited() == set()
    known.follow(members(ME))
    assert returning.awaited() == set()
    assert not returning.just_back()


def test_all_that_went_with_this_hosts_lease_are_awaited(
    start: Callable[[], AbsentHosts], clock: Clock
) -> None:
    known = start()
    known.follow(members(ME, B, C))
    returning = Returning(known, clock)
    returning.awaited()
    clock.now = 100.0
    returning.joined()
    known.follow(members(ME, C))
    assert returning.awaited() == {"b"}
