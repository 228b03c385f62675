# SPDX-License-Identifier: Apache-2.0
"""Changes of the registry, read: whose key it is, and what it says now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from anyport.registry.base import Change, Deleted, Entry
from anyport.registry.keys import ClaimKey, HeartbeatKey, Key, host_prefix, parse
from anyport.registry.values import Noun, decode

PIECE = 1000  # values read in one go: some 10 ms


@dataclass(frozen=True, slots=True)
class Word:
    """`key` None: it is none of ours; `fault`: why there is no `noun`."""

    change: Change
    key: Key | None
    noun: Noun | None = None
    fault: str = ""


async def read_all(changes: Iterable[Change]) -> list[Word]:
    """In pieces, so that the rest of the daemon has its turn: a host may say a hundred thousand."""
    words = []
    for change in changes:
        words.append(read(change))
        if len(words) % PIECE == 0:
            await asyncio.sleep(0)
    return words


def read(change: Change) -> Word:
    key = parse(change.key)
    if key is None or isinstance(change, Deleted):
        return Word(change, key)
    try:
        return Word(change, key, decode(key, change.value, age(key, change)))
    except ValueError as error:
        return Word(change, key, fault=str(error))


def leased(words: Iterable[Word], host: str) -> dict[str, bytes | None]:
    """Key -> value, None: it is gone, of the host's keys that go with its lease; but for its
    heartbeat."""
    prefix, heartbeat = host_prefix(host), str(HeartbeatKey(host))
    changes = (word.change for word in words)
    return {
        change.key: None if isinstance(change, Deleted) else change.value
        for change in changes
        if change.key.startswith(prefix) and change.key != heartbeat and not _lasts(change)
    }


def _lasts(change: Change) -> bool:
    return isinstance(change, Entry) and not change.lease


def age(key: Key, entry: Entry) -> int:
    """See model.Claim: a claim is as old as its last word."""
    return entry.mod_revision if isinstance(key, ClaimKey) else entry.create_revision
