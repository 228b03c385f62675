# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the lab's etcd behind the daemons' backs; run within the lab.

lab_registry.py ENDPOINT watch PREFIX     a line each change: put KEY, or delete KEY
lab_registry.py ENDPOINT put KEY VALUE
lab_registry.py ENDPOINT delete KEY
lab_registry.py ENDPOINT revoke LEASE
"""

from __future__ import annotations

import asyncio
import sys

from anyport.registry.base import Delete, Entry, Put
from anyport.registry.etcd import EtcdRegistry


async def watch(registry: EtcdRegistry, prefix: str) -> None:
    """First a line `ready`: what is written from then on is shown."""
    revision = (await registry.list(prefix)).revision
    print("ready", flush=True)
    async for changes in registry.watch(prefix, revision):
        for change in changes.changes:
            print("put" if isinstance(change, Entry) else "delete", change.key, flush=True)


async def main(endpoint: str, verb: str, key: str, value: str = "") -> None:
    registry = EtcdRegistry([endpoint])
    try:
        if verb == "watch":
            await watch(registry, key)
        elif verb == "revoke":
            await registry.revoke(int(key))
        else:
            await registry.write([Put(key, value.encode()) if verb == "put" else Delete(key)])
    finally:
        await registry.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
