# SPDX-License-Identifier: Apache-2.0
"""Hosts that are absent: remembered, over restarts too, for as long as their blocks are theirs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path

from anyport.decide.absent import Absent, still_absent
from anyport.decide.rows import MAX_HOSTS
from anyport.model import Host
from anyport.registry import values
from anyport.registry.keys import HostKey

log = logging.getLogger(__name__)

RETURN_SECONDS = 5.0
"""For the next host to be a member again, where all went together. Longer would keep a cluster
waiting of which a host has died with all daemons away."""


class AbsentHosts:
    """Every member but this host is known again in `file`, in case a daemon starts without it."""

    def __init__(self, own: str, file: Path, seconds: float, clock: Callable[[], float]) -> None:
        """`seconds`: for so long they are remembered."""
        self._own = own
        self._file = file
        self._seconds = seconds
        self._clock = clock
        self._members = _load(file)
        self._absent: dict[str, Absent] = {}

    def follow(self, hosts: Mapping[str, Host]) -> bool:
        """`hosts`: the members now. Whether others are absent."""
        known, before = self._known(), self._absent
        others = {name: host for name, host in hosts.items() if name != self._own}
        self._absent = still_absent(
            self._absent, self._members, others, self._clock(), self._seconds, MAX_HOSTS - 1
        )
        self._members = others
        if self._known() != known:
            self._save()
        return self._absent.keys() != before.keys()

    @property
    def absent(self) -> Mapping[str, Absent]:
        """Who went last at the end."""
        return self._absent

    @property
    def hosts(self) -> dict[str, Host]:
        """The same, as they last described themselves."""
        return {name: one.host for name, one in self._absent.items()}

    def _known(self) -> dict[str, Host]:
        return {**self.hosts, **self._members}

    def _save(self) -> None:
        said = {name: values.encode(host).decode() for name, host in self._known().items()}
        new = self._file.with_suffix(".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w") as file:
                json.dump(said, file)
            new.rename(self._file)
        except OSError as error:
            log.warning("%s: %s; absent hosts are forgotten by a restart", new, error.strerror)


def _load(file: Path) -> dict[str, Host]:
    """What cannot be read is nobody: the file is only this daemon's own memory."""
    try:
        said = json.loads(file.read_text())
        found = {n: values.decode(HostKey(n), text.encode(), 0) for n, text in said.items()}
    except (OSError, ValueError, AttributeError):
        return {}
    return {name: host for name, host in found.items() if isinstance(host, Host)}


class Returning:
    """After this host has joined: the hosts that were there before, and may be back any moment.

    Where all leases ended together, the first host that is back would take every VIP, and know
    neither the others' listeners nor their connections.
    """

    def __init__(self, hosts: AbsentHosts, clock: Callable[[], float]) -> None:
        self._hosts = hosts
        self._clock = clock
        self._awaited: set[str] | None = None
        self._until = -inf

    def joined(self) -> None:
        """Under a new lease: whom it will miss is yet to be seen."""
        self._awaited = None

    def awaited(self) -> set[str]:
        """Once members have been followed."""
        if self._awaited is None:
            self._awaited = set(self._hosts.absent)
            if self._awaited:
                self._until = self._clock() + RETURN_SECONDS
                names = ", ".join(sorted(self._awaited))
                log.info(
                    "waiting for hosts that were there, %.0f s for each: %s", RETURN_SECONDS, names
                )
        left = self._awaited & self._hosts.absent.keys()
        if left != self._awaited:  # one is back: the next may be
            self._until = self._clock() + RETURN_SECONDS
        self._awaited = left
        return self._awaited if self._clock() < self._until else set()

    def just_back(self) -> bool:
        """Whether daemons that were waited for may not have begun yet."""
        return self._clock() < self._until + RETURN_SECONDS

    def is_over(self) -> bool:
        """Once: some have not come back in time."""
        if not self._awaited or self._clock() < self._until:
            return False
        self._awaited.clear()
        return True
