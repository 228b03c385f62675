# SPDX-License-Identifier: Apache-2.0
"""When a key of the registry is deleted: `python deletion.py ENDPOINT KEY`.

Writes JSON lines: null when it looks, then CLOCK_MONOTONIC in seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from anyport.registry.base import Deleted
from anyport.registry.etcd import EtcdRegistry


async def main(endpoint: str, key: str) -> None:
    registry = EtcdRegistry([endpoint])
    after = (await registry.list(key)).revision
    print(json.dumps(None), flush=True)
    async for batch in registry.watch(key, after):
        if any(isinstance(change, Deleted) for change in batch.changes):
            print(json.dumps(time.monotonic()), flush=True)
            return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
