# SPDX-License-Identifier: Apache-2.0
"""Which hosts are gone although somebody keeps their leases alive: their heartbeats stand still.

Counted in the reader's own heartbeats, as they come back to it by the registry:
each stands for the seconds between two of them, or of the other host's if those
are fewer (a TTL that is changed on one host after the other). So no clocks of two hosts are
compared, and none runs while the registry or the reader stands still, while it
takes no writes, or is out of reach: then the reader's own do not come either.
"""

from __future__ import annotations

from collections.abc import Mapping

from anyport.model import Heartbeat

SILENT_TTLS = 4
"""Three TTLs at least, as the first of the reader's own may come right after the host's last: a
host that lives loses its lease before. After so many at most, plus one."""


class Heartbeats:
    """What `reader` has heard of all hosts, itself included.

    A host that never had a heartbeat is an earlier version's: its lease alone
    decides.
    """

    def __init__(self, reader: str) -> None:
        self._reader = reader
        self._ttls: dict[str, int] = {}
        self._still: dict[str, int] = {}
        """Host -> seconds of the reader's heartbeats since the host's last."""
        self.silent: frozenset[str] = frozenset()

    def hear(self, beats: Mapping[str, Heartbeat | None]) -> None:
        """Those that changed at once; None: the key is gone, or cannot be read.

        However many of the reader's own came at once, they count as one: what
        was waited for together has no order in time.
        """
        for host, beat in beats.items():
            if beat is None:
                self._ttls.pop(host, None)
            else:
                self._ttls[host] = beat.ttl
        own = beats.get(self._reader)
        passed = own.ttl if own is not None else 0
        self._still = {
            host: 0 if host in beats else self._still[host] + min(passed, ttl)
            for host, ttl in self._ttls.items()
        }
        self.silent = frozenset(
            host for host, still in self._still.items() if still >= SILENT_TTLS * self._ttls[host]
        )
