# SPDX-License-Identifier: Apache-2.0
"""This host's lease: granted, kept alive, resumed after a restart, replaced when it was lost."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from anyport.errors import AnyportError, Conflict, RegistryError
from anyport.model import Cluster, Host
from anyport.registry import values
from anyport.registry.base import Put, Registry, Unchanged
from anyport.registry.keys import HostKey, host_prefix
from anyport.registry.publisher import Publisher

_MACHINE_ID = Path("/etc/machine-id")

log = logging.getLogger(__name__)


class Membership:
    """Joins the cluster as `host`, and stays in it.

    `instance` tells two daemons of one name apart; it is saved with the lease
    in `state`, so that a restarted daemon is the same member and resumes; on
    this machine and under this name only: a clone of its disk is another member,
    and with a shared lease either would withdraw what the other says.
    """

    def __init__(
        self,
        registry: Registry,
        publisher: Publisher,
        state: Path,
        host: str,
        ttl: int,
    ) -> None:
        self._registry = registry
        self._publisher = publisher
        self._file = state / "membership.json"
        self._host = host
        self._ttl = ttl
        self.lease = 0
        self.instance = ""
        self.contact = 0.0
        """CLOCK_BOOTTIME (s) when the last renewal that succeeded was asked for."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called before anything is said again under a new lease."""
        self._me: Host | None = None

    def is_seen_in(self, cluster: Cluster) -> bool:
        """Whether `cluster` is of this membership: what went with a former lease is gone from it,
        and what others did meanwhile is in it."""
        return self._me is not None and cluster.hosts.get(self._host) == self._me

    async def join(self, describe: Callable[[str], Host]) -> None:
        """Takes the name, or raises AnyportError that names who has it.

        `describe(instance)` is this host, as it is to be shown.
        """
        saved_lease = self._load()
        own = str(HostKey(self._host))
        contact = _now()
        # Before the listing: what a lease near its end still holds would vanish after it.
        self.lease = await self._resume(saved_lease) or await self._registry.grant(self._ttl)
        surviving = await self._registry.list(host_prefix(self._host))
        entry = next((e for e in surviving.entries if e.key == own), None)
        if entry is not None:
            self._refuse_if_taken(entry.value)
        self._save()
        held = entry.mod_revision if entry is not None else 0
        self._me = describe(self.instance)
        value = values.encode(self._me)
        try:
            await self._registry.write([Put(own, value, self.lease)], [Unchanged(own, held)])
        except Conflict:
            raise AnyportError(
                f"host name {self._host!r} was taken by another daemon just now: "
                "give each host a host.name of its own"
            ) from None
        self._publisher.set(own, value)
        ours = {e.key: e.value for e in surviving.entries if e.lease == self.lease}
        self._publisher.lease_renewed(self.lease, ours)
        self.contact = contact

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._ttl / 4)
            contact = _now()
            try:
                if await self._registry.keep_alive(self.lease) <= 0:
                    await self._replace()
                self.contact = contact
            except RegistryError as error:
                log.debug("registry: lease not renewed: %s", error)

    async def leave(self) -> None:
        """Withdraws everything this host says, at once."""
        await self._registry.revoke(self.lease)
        self.lease = 0
        self._save()

    async def _replace(self) -> None:
        self.lease = await self._registry.grant(self._ttl)
        self._save()
        log.warning("registry: the lease was lost; saying everything again under a new one")
        assert self._me is not None  # joined
        self._me = replace(self._me, since=time.time())
        self._publisher.set(str(HostKey(self._host)), values.encode(self._me))
        self.on_lost()
        self._publisher.lease_renewed(self.lease, {})

    async def _resume(self, lease: int) -> int:
        return lease if lease and await self._registry.keep_alive(lease) > 0 else 0

    def _refuse_if_taken(self, value: bytes) -> None:
        try:
            other = values.decode(HostKey(self._host), value, 0)
        except ValueError:
            return  # Not readable, so nobody of ours.
        if isinstance(other, Host) and other.instance != self.instance:
            raise AnyportError(
                f"host name {self._host!r} is taken by the daemon at {other.address} "
                f"(instance {other.instance}): give each host a host.name of its own"
            )

    def _load(self) -> int:
        try:
            saved = json.loads(self._file.read_text())
            if (saved["host"], saved["machine"]) == (self._host, _machine()):
                self.instance = str(saved["instance"])
                return int(saved["lease"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.instance = secrets.token_hex(8)
        return 0

    def _save(self) -> None:
        new = self._file.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            json.dump(
                {
                    "host": self._host,
                    "machine": _machine(),
                    "instance": self.instance,
                    "lease": self.lease,
                },
                file,
            )
        new.rename(self._file)


def _machine() -> str:
    """machine-id(5); empty on a machine without one."""
    try:
        return _MACHINE_ID.read_text().strip()
    except OSError:
        return ""


def _now() -> float:
    """Goes on while the machine sleeps, as leases do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
