# SPDX-License-Identifier: Apache-2.0
"""Starts the lab's etcd from within its namespace: `python -m anyport.lab.etcd DATA ADDRESS`.

Prints the endpoints as JSON. A process of its own, as gRPC's threads would
stay in the namespace of the one that started them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from anyport.errors import AnyportError
from anyport.registry.embedded import start_or_adopt


def main(data: str, address: str) -> int:
    try:
        endpoints = asyncio.run(start_or_adopt(Path(data), listen_host=address))
    except AnyportError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(list(endpoints)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
