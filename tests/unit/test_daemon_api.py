# SPDX-License-Identifier: Apache-2.0
"""The API's answers to what nobody foresaw, over its real socket."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from anyport.client import Client
from anyport.daemon import state
from anyport.daemon.api import Server, application
from anyport.daemon.operator import Operator
from anyport.daemon.rows import Rows
from anyport.errors import AnyportError, UsageError

NOBODY = cast(Any, None)


async def asked(path: Path, ask: Any, status: Any = None) -> Any:
    rows, operator = Rows(NOBODY, NOBODY, NOBODY), Operator(NOBODY, NOBODY, NOBODY)
    app = application(rows, NOBODY, operator, NOBODY, status, CollectorRegistry())
    serving = asyncio.create_task(Server(app, state.listen_unix(path)).run_until_stopped())
    try:
        return await asyncio.to_thread(ask, Client(path))
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def test_a_fault_is_one_line_for_the_client_and_a_traceback_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def faulty() -> dict[str, Any]:
        raise IndexError("far out")

    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(AnyportError, match="a fault of anyport: IndexError: far out") as raised,
    ):
        asyncio.run(asked(tmp_path / "socket", lambda client: client.get("status"), faulty))
    assert raised.value.exit_status == 1
    assert "in faulty" in caplog.text


def test_a_wish_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hosts"):
        asyncio.run(asked(tmp_path / "socket", lambda client: client.add_vip("1.2.3.4", hosts=5)))
