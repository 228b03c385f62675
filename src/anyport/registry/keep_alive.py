# SPDX-License-Identifier: Apache-2.0
"""Keeps a lease alive from a thread of its own, and says so beneath the host's own prefix.

What holds the event loop up for seconds (65,535 ports to program, a busy
machine) costs no lease so, and with the lease everything this host says. Only
a call that holds Python's global lock all that time could.

Others may keep a lease alive too, of a host that died, say: etcd asks nobody
who he is for that. The heartbeat only its host may write, so it is the one that
readers believe (registry.heartbeats). From this thread, too: what the lease
outlives, it must.

But a thread alone would keep a daemon in the cluster whose loop never comes
back: it would distribute by a table that nobody keeps up to date, while no
other host may take over. So the loop has to `beat`, and the lease is left to
run out when it has not for LOOP_TTLS times the TTL; so is the heartbeat.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from anyport.errors import RegistryError
from anyport.registry.base import Put, Renewer

log = logging.getLogger(__name__)

LOOP_TTLS = 4
"""TTLs for which the event loop may stand still: 20 s by default, some ten times the longest that
a daemon was seen to need; the lease's own time comes on top."""

SAY_AGAIN_SECONDS = 2.0
"""For hosts whose leases ended while nobody could renew them, to have said again what they have:
etcd looks for ended leases twice a second, and a host that finds its own gone needs a new one."""

_HEARD_TTLS = 2
"""Others take a host for gone whose heartbeat they have missed for three TTLs, or more."""

_SILENT_TTLS = 0.7
"""After so many without an answer leases may have ended soon: of those renewed a quarter of a TTL
before. One of several endpoints that does not answer makes no such silence: see _ANSWER_TTLS."""

_RENEWALS = 4
"""In a TTL: one that got lost is made good in time."""

_ANSWER_TTLS = 1 / 3
"""For one answer: with the pauses before and after, less than _SILENT_TTLS."""

_RETRIES = 16
"""In a TTL, while nobody answers."""


class KeepAlive:
    """Renews the lease given by `hold` until `close`, and writes `heartbeat` under it every `ttl`.

    `ttl`: seconds. `on_lost` is called by the thread, once for each lease that
    the registry says is gone.
    """

    def __init__(
        self, renewer: Renewer, ttl: int, heartbeat: Put, on_lost: Callable[[], None]
    ) -> None:
        self._renewer = renewer
        self._ttl = ttl
        self._heartbeat = heartbeat
        self._due = 0.0
        self._on_lost = on_lost
        self._lease = 0
        self._beaten = now()
        self._standing = False
        self._ended = threading.Event()
        self.contact = 0.0
        """CLOCK_BOOTTIME (s) when the last heartbeat that was written was begun: nobody has counted
        for longer than since then that this host is away."""
        self.renewed = 0.0
        """The same clock, when the lease was last renewed, granted or resumed."""
        self._answered = now()
        self._doubtful_until = 0.0
        # A daemon thread: what fails on the way to `close` must still end the process.
        self._thread = threading.Thread(target=self._run, name="keep-alive", daemon=True)
        self._thread.start()

    def hold(self, lease: int, contact: float) -> None:
        """`contact`: when it was granted or resumed, as `now` said before the question."""
        self.contact = self.renewed = contact
        self._due = 0.0
        self.beat()
        self._lease = lease
        self._hear()

    def beat(self) -> None:
        """The event loop runs."""
        self._beaten = now()

    def is_certain(self) -> bool:
        """No other host can have been elected in this one's place: its lease lives for a quarter of
        its TTL yet, and they have heard its heartbeat (registry.heartbeats)."""
        lives = self._lease != 0 and now() - self.renewed < self._ttl * 3 / 4
        return lives and now() - self.contact < self._ttl * _HEARD_TTLS

    def is_in_doubt(self) -> bool:
        """Others' silence may mean that the registry answered nobody: for long enough that leases
        ended, and too shortly ago for their hosts to have said all again."""
        return self._is_silent() or now() < self._doubtful_until

    def _is_silent(self) -> bool:
        return now() - self._answered > self._ttl * _SILENT_TTLS

    def _hear(self) -> None:
        if self._is_silent():
            self._doubtful_until = now() + SAY_AGAIN_SECONDS
        self._answered = now()

    def close(self) -> None:
        """The lease lives on for what is left of its TTL."""
        self._ended.set()
        self._renewer.close()  # ends a call that waits
        self._thread.join()

    def _run(self) -> None:
        pause = self._ttl / _RENEWALS
        while not self._wait(pause):
            answered = True
            if self._lease and self._loop_runs():
                answered = self._renew() and self._say()
            pause = self._ttl / (_RENEWALS if answered else _RETRIES)

    def _wait(self, pause: float) -> bool:
        """Whether it is over."""
        began = now()
        over = self._ended.wait(pause)
        late = now() - began - pause
        if late > self._ttl / 2:
            log.warning("this process, or its machine, stood still for %.1f s", late)
        return over

    def _renew(self) -> bool:
        """Whether the registry answered."""
        lease, asked = self._lease, now()
        try:
            left = self._renewer.keep_alive(lease, self._ttl * _ANSWER_TTLS)
        except RegistryError as error:
            log.debug("registry: lease not renewed: %s", error)
            return False
        self._hear()
        if left <= 0 and lease == self._lease:  # not replaced meanwhile
            self._lease = 0
            self._on_lost()
        elif lease == self._lease:
            self.renewed = asked
        return True

    def _say(self) -> bool:
        """The heartbeat, if it is due; whether the registry has it."""
        asked, lease = now(), self._lease
        if not lease or asked < self._due:
            return True
        try:
            self._renewer.put(replace(self._heartbeat, lease=lease), self._ttl / 4)
        except RegistryError as error:
            log.debug("registry: heartbeat not written: %s", error)
            return False
        self.contact = asked
        self._due = asked + self._ttl * (1 - 0.5 / _RENEWALS)  # with the renewal next to it
        return True

    def _loop_runs(self) -> bool:
        still = now() - self._beaten
        standing = still > LOOP_TTLS * self._ttl
        if standing and not self._standing:
            log.error("the event loop has stood still for %.0f s: letting the lease go", still)
        self._standing = standing
        return not standing


def now() -> float:
    """Goes on while the machine sleeps, as leases do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
