# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import enum


class Protocol(enum.IntEnum):
    """Transport protocol; the value is the index in the ABI, not an IP protocol number."""

    TCP = 0
    UDP = 1

    @property
    def word(self) -> str:
        """`tcp` or `udp`, as in the CLI and in registry keys."""
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> Protocol:
        """Raises ValueError for any other word."""
        try:
            return {"tcp": cls.TCP, "udp": cls.UDP}[word]
        except KeyError:
            raise ValueError(f"protocol {word!r}: allowed are tcp and udp") from None
