# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the lab's etcd behind the daemons' backs; run within the lab.

lab_registry.py ENDPOINT watch PREFIX     a line each change: put KEY, or delete KEY
lab_registry.py ENDPOINT put KEY VALUE
lab_registry.py ENDPOINT delete KEY
lab_registry.py ENDPOINT revoke LEASE
lab_registry.py ENDPOINT keep LEASE           keeps it alive, with a line each time

ENDPOINT may be followed by `,CA,CERT,KEY`: files.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from anyport.registry.base import Delete, Entry, Put
from anyport.registry.etcd import EtcdRegistry


async def watch(registry: EtcdRegistry, prefix: str) -> None:
    """First a line `ready`: what is written from then on is shown."""
    revision = (await registry.list(prefix)).revision
    print("ready", flush=True)
    async for changes in registry.watch(prefix, revision):
        for change in changes.changes:
            print("put" if isinstance(change, Entry) else "delete", change.key, flush=True)


async def keep(registry: EtcdRegistry, lease: int) -> None:
    while (left := await registry.keep_alive(lease)) > 0:
        print("kept", flush=True)
        await asyncio.sleep(left / 8)


async def main(where: str, verb: str, key: str, value: str = "") -> None:
    endpoint, *files = where.split(",")
    ca, cert, private = map(Path, files) if files else (None, None, None)
    registry = EtcdRegistry([endpoint], ca=ca, cert=cert, key=private)
    try:
        if verb == "watch":
            await watch(registry, key)
        elif verb == "revoke":
            await registry.revoke(int(key))
        elif verb == "keep":
            await keep(registry, int(key))
        else:
            await registry.write([Put(key, value.encode()) if verb == "put" else Delete(key)])
    finally:
        await registry.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
