# SPDX-License-Identifier: Apache-2.0
"""The Registry protocol: the little of etcd v3 that anyport needs.

Two implementations, `registry.etcd` and `registry.memory` (unit tests), pass
one conformance suite (tests/contract).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as stored. `lease` 0: none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """Every key beneath a prefix, as of `revision` of the store named `store`.

    Another `store` is another history: its revisions are not to be compared.
    One name may stand for two all the same, if one took the other's place.
    """

    revision: int
    entries: tuple[Entry, ...]
    store: int


@dataclass(frozen=True, slots=True)
class Deleted:
    key: str


Change = Entry | Deleted


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of one or more consecutive revisions, in order; `revision` is the last.

    Never splits a revision: what one transaction wrote arrives together.
    """

    revision: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Deleting what is absent is success."""

    key: str


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Requirement: the key's mod_revision is this; 0: it does not exist."""

    key: str
    mod_revision: int


class Renewer(Protocol):
    """Renews leases, and says so, from a thread, by connections of its own.

    For one thread, but for `close`.
    """

    def keep_alive(self, lease: int, timeout: float) -> int:
        """Seconds the lease now has; 0 if it is gone. Waits up to `timeout` seconds.

        Raises RegistryUnavailable; the next call may do better.
        """

    def put(self, put: Put, timeout: float) -> None:
        """One write. Waits up to `timeout` seconds.

        Raises LeaseGone, RegistryUnavailable, or another RegistryError.
        """

    def close(self) -> None:
        """From any thread: what waits for an answer fails, and later calls do."""


class Registry(Protocol):
    """Every call raises RegistryUnavailable when no answer came in time.

    Calls are safe to repeat: a write whose answer was lost may have happened.
    """

    async def list(self, prefix: str) -> Listing:
        """All keys that begin with `prefix`, consistent at one revision."""

    def watch(self, prefix: str, after: int) -> AsyncGenerator[Changes, None]:
        """Changes with a revision above `after`, with no gap and no repeat; close it after use.

        Reconnects by itself while it can resume. Raises Compacted when it
        cannot: list again. Raises RegistryUnavailable when the stream is
        silent or broken for longer than the client's deadline.
        """

    async def write(self, writes: Sequence[Write], require: Sequence[Unchanged] = ()) -> int:
        """One transaction of at most 128 operations; the revision it made.

        0 if it changed nothing: it only deleted what was absent.
        Raises Conflict if a requirement does not hold, and LeaseGone if a lease
        does not exist; nothing is written then. Raises ValueError for more than
        128 operations, or two on one key.
        """

    async def grant(self, ttl: int) -> int:
        """A new lease of `ttl` seconds; its id."""

    async def keep_alive(self, lease: int) -> int:
        """Seconds the lease now has; 0 if it is gone."""

    async def revoke(self, lease: int) -> None:
        """Deletes the lease and its keys. Absent: success."""

    def renewer(self) -> Renewer:
        """Of the same store."""

    async def close(self) -> None: ...
