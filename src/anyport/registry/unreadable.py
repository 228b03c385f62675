# SPDX-License-Identifier: Apache-2.0
"""Values that are skipped, by who says them: told once, then counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from anyport.registry.keys import DefinitionKey, Key

log = logging.getLogger(__name__)

_LONGEST = 200


class Unreadable:
    """A host may write a hundred thousand of them: the log has the first, `problems` how many."""

    def __init__(self) -> None:
        self._by_speaker: dict[str, dict[str, str]] = {}

    def add(self, key: Key, why: str) -> None:
        said = self._by_speaker.setdefault(_speaker(key), {})
        why = why[:_LONGEST]
        if not said:
            log.warning("registry: %s: skipped: %s", key, why)
        said.setdefault(str(key), why)

    def discard(self, key: Key) -> None:
        """It can be read, or is gone."""
        if not self._by_speaker:
            return
        speaker = _speaker(key)
        said = self._by_speaker.get(speaker, {})
        said.pop(str(key), None)
        if not said:
            self._by_speaker.pop(speaker, None)

    def problems(self) -> Mapping[str, str]:
        """Who -> what is wrong, in one line."""
        return {speaker: _line(said) for speaker, said in self._by_speaker.items()}


def _line(said: Mapping[str, str]) -> str:
    key, why = next(iter(said.items()))
    count = "a value" if len(said) == 1 else f"{len(said)} values"
    return f"{count} of its in the registry skipped, as {key}: {why}"


def _speaker(key: Key) -> str:
    return "operator" if isinstance(key, DefinitionKey) else f"host {key.host}"
