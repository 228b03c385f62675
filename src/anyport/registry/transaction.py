# SPDX-License-Identifier: Apache-2.0
"""What every registry asks of a transaction before it is tried."""

from __future__ import annotations

from collections.abc import Sequence

from anyport.registry.base import Unchanged, Write

MAX_OPERATIONS = 128
"""etcd's --max-txn-ops, unless its operator changed it; it holds for each list alone."""


def check(writes: Sequence[Write], require: Sequence[Unchanged]) -> None:
    """Raises ValueError for what etcd would refuse, whatever the store holds."""
    for operations in (writes, require):
        if len(operations) > MAX_OPERATIONS:
            raise ValueError(f"{len(operations)} operations: allowed are {MAX_OPERATIONS}")
    keys = [write.key for write in writes]
    if len(set(keys)) != len(keys):
        raise ValueError("two writes of one key in a transaction")
