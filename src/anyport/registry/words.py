# SPDX-License-Identifier: Apache-2.0
"""Changes of the registry, read: whose key it is, and what it says now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from anyport.registry.base import Change, Deleted, Entry
from anyport.registry.keys import ClaimKey, Key, parse
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
        return Word(change, key, decode(key, change.value, _age(key, change)))
    except ValueError as error:
        return Word(change, key, fault=str(error))


def _age(key: Key, entry: Entry) -> int:
    """See model.Claim: a claim is as old as its last word."""
    return entry.mod_revision if isinstance(key, ClaimKey) else entry.create_revision
