# SPDX-License-Identifier: Apache-2.0
"""Waiting, for a while, until the cluster shows what an operator asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from anyport.registry.mirror import Mirror

WAIT_SECONDS = 5.0


async def eventually(mirror: Mirror, holds: Callable[[], bool]) -> bool:
    """Whether it held within WAIT_SECONDS; asked again at each change."""
    subscription = mirror.subscribe()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds():
                await subscription.changed()
    except TimeoutError:
        return holds()
    finally:
        mirror.unsubscribe(subscription)
    return True
