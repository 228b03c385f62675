# SPDX-License-Identifier: Apache-2.0
"""What a host knows of its own lease (with a real etcd: tests/contract/test_keep_alive.py)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from anyport.registry.base import Put
from anyport.registry.keep_alive import (
    _ANSWER_TTLS,
    _RENEWALS,
    _RETRIES,
    _SILENT_TTLS,
    KeepAlive,
    now,
)

TTL = 1
LEASE = 7
TIMEOUT = 20.0


class Answers:
    """A registry that takes all, and answers after `late` seconds; as does a thread that gets no
    time to read it. It takes one heartbeat, and is silent from then on."""

    def __init__(self) -> None:
        self.late = 0.0
        self.left = TTL
        self.written = threading.Event()
        self._closed = threading.Event()

    def keep_alive(self, lease: int, timeout: float) -> int:
        self._closed.wait(TIMEOUT if self.written.is_set() else self.late)
        return self.left

    def put(self, put: Put, timeout: float) -> None:
        self.written.set()

    def close(self) -> None:
        self._closed.set()


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def lost() -> threading.Event:
    return threading.Event()


@pytest.fixture
def kept(answers: Answers, lost: threading.Event) -> Iterator[KeepAlive]:
    keep_alive = KeepAlive(answers, TTL, Put("heartbeat", b"", LEASE), lost.set)
    yield keep_alive
    keep_alive.close()


def test_a_lease_that_was_granted_just_now_is_certain() -> None:
    kept = KeepAlive(Answers(), 60, Put("heartbeat", b"", LEASE), lambda: None)
    assert not kept.is_certain()
    kept.hold(LEASE, now())
    assert kept.is_certain()
    kept.close()


def test_a_lease_is_as_old_as_the_question(kept: KeepAlive, answers: Answers) -> None:
    """It may have ended before the answer to it was read, though a heartbeat is still taken: etcd
    ends leases late. Whoever was elected then would be fenced by this host's announcement."""
    answers.late = 1.5 * TTL
    kept.hold(LEASE, now())
    assert answers.written.wait(TIMEOUT)
    assert not kept.is_certain()


def test_a_lease_that_is_gone_is_not_certain(
    kept: KeepAlive, answers: Answers, lost: threading.Event
) -> None:
    answers.left = 0
    kept.hold(LEASE, now())
    assert lost.wait(TIMEOUT)
    assert not kept.is_certain()


def test_one_endpoint_that_does_not_answer_is_no_silence() -> None:
    """A renewal asks it in vain, and the next one another: else changes of hosts would wait."""
    assert 1 / _RENEWALS + _ANSWER_TTLS + 1 / _RETRIES < _SILENT_TTLS
