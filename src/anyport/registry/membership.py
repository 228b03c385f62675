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
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from anyport.errors import AnyportError, Conflict, RegistryError
from anyport.model import Cluster, Heartbeat, Host
from anyport.registry import values
from anyport.registry.base import Put, Registry, Unchanged
from anyport.registry.keep_alive import KeepAlive, now
from anyport.registry.keys import HeartbeatKey, HostKey, host_prefix
from anyport.registry.publisher import Publisher

_MACHINE_ID = Path("/etc/machine-id")

RETRY_SECONDS = 0.5

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
        self._keep_alive: KeepAlive | None = None  # from `join` to `close`
        self._lost = asyncio.Event()
        self.on_lost: Callable[[], None] = lambda: None
        """Called before anything is said again under a new lease."""
        self._me: Host | None = None

    @property
    def contact(self) -> float:
        """CLOCK_BOOTTIME (s) when the last heartbeat that was written was begun; 0: none yet."""
        return self._keep_alive.contact if self._keep_alive is not None else 0.0

    def is_certain(self) -> bool:
        """See KeepAlive.is_certain."""
        return self._keep_alive is not None and self._keep_alive.is_certain()

    def is_in_doubt(self) -> bool:
        """See KeepAlive.is_in_doubt."""
        return self._keep_alive is not None and self._keep_alive.is_in_doubt()

    def is_seen_in(self, cluster: Cluster) -> bool:
        """Whether `cluster` is of this membership: what went with a former lease is gone from it,
        and what others did meanwhile is in it."""
        seen = cluster.hosts.get(self._host)
        return (
            self._me is not None
            and seen is not None
            and replace(seen, state=self._me.state) == self._me  # it may be drained
        )

    async def join(self, describe: Callable[[str], Host]) -> None:
        """Takes the name, or raises AnyportError that names who has it.

        `describe(instance)` is this host, as it is to be shown. The lease is
        kept alive from here on, while the rest of the daemon starts: `close`
        ends that.
        """
        saved_lease = self._load()
        own = str(HostKey(self._host))
        contact = now()
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
        heartbeat = Put(
            str(HeartbeatKey(self._host)), values.encode(Heartbeat(self._host, self._ttl))
        )
        said = [Put(own, value, self.lease), replace(heartbeat, lease=self.lease)]
        try:
            await self._registry.write(said, [Unchanged(own, held)])
        except Conflict:
            raise AnyportError(
                f"host name {self._host!r} was taken by another daemon just now: "
                "give each host a host.name of its own"
            ) from None
        self._publisher.set(own, value)
        ours = {
            e.key: e.value
            for e in surviving.entries
            if e.lease == self.lease and e.key != heartbeat.key  # no wish of the publisher's
        }
        self._publisher.lease_renewed(self.lease, ours)
        renewer = self._registry.renewer()
        self._keep_alive = KeepAlive(renewer, self._ttl, heartbeat, self._teller())
        self._keep_alive.hold(self.lease, contact)

    async def run(self) -> None:
        """Shows that the event loop runs, and replaces a lease that was lost."""
        assert self._keep_alive is not None  # joined
        while True:
            self._keep_alive.beat()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._ttl / 4):
                    await self._lost.wait()
            if self._lost.is_set():
                await self._replace(self._keep_alive)

    def _teller(self) -> Callable[[], None]:
        """`lost`, for another thread."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(self.lost)

        return tell

    def lost(self) -> None:
        """The lease is gone, or the store is another than the one that granted it."""
        self._lost.set()

    def close(self) -> None:
        """Ends the thread. The lease, if it was not given back, has its TTL left."""
        if self._keep_alive is not None:
            self._keep_alive.close()

    async def part(self) -> None:
        """The daemon stops; what this host has said stands for a whole lease from now.

        Its listeners are still there and served (docs/adr/0015): a daemon that
        is back within the lease is not missed.
        """
        await self._registry.keep_alive(self.lease)

    async def _replace(self, keep_alive: KeepAlive) -> None:
        contact = now()
        try:
            self.lease = await self._registry.grant(self._ttl)
        except RegistryError as error:
            log.debug("registry: no new lease: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            return
        self._lost.clear()
        self._save()
        log.warning(
            "registry: the lease was lost, last renewed %.1f s ago; saying everything again under "
            "a new one",
            contact - keep_alive.renewed,
        )
        keep_alive.hold(self.lease, contact)
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
