# SPDX-License-Identifier: Apache-2.0
"""The daemon's HTTP API on its unix socket: what the CLI speaks. Errors are one JSON line."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from anyport.daemon import port_rows, wish
from anyport.daemon.counters import CounterRows
from anyport.daemon.drains import Drains
from anyport.daemon.operator import Operator, parse_vip
from anyport.daemon.port_rows import Row
from anyport.daemon.rows import Rows
from anyport.errors import AnyportError
from anyport.model.definition import Address

Handler = Callable[[Request], Awaitable[Response]]


def application(
    rows: Rows,
    counters: CounterRows,
    operator: Operator,
    drains: Drains,
    status: Callable[[], Awaitable[dict[str, Any]]],
    metrics: CollectorRegistry,
) -> Starlette:
    async def vips(request: Request) -> Response:
        return JSONResponse(rows.vips())

    async def add(request: Request) -> Response:
        return _pending(await operator.add(wish.parse(await request.body())))

    async def vip(request: Request) -> Response:
        address = parse_vip(request.path_params["vip"])
        rows.require(address)
        return JSONResponse(rows.vip(address))

    async def change(request: Request) -> Response:
        address = parse_vip(request.path_params["vip"])
        return _pending(await operator.change(address, wish.parse(await request.body())))

    async def delete(request: Request) -> Response:
        return _pending(await operator.delete(parse_vip(request.path_params["vip"])))

    async def impact(request: Request) -> Response:
        return JSONResponse(rows.impact(parse_vip(request.path_params["vip"])))

    async def drain(request: Request) -> Response:
        anyway = "anyway" in request.query_params
        return JSONResponse(await drains.drain(request.path_params["host"], anyway))

    async def resume(request: Request) -> Response:
        return JSONResponse(await drains.resume(request.path_params["host"]))

    def only_vip(request: Request) -> Address | None:
        only = request.query_params.get("vip")
        vip = parse_vip(only) if only else None
        if vip is not None:
            rows.require(vip)
        return vip

    def noun(read: Callable[[Address | None], Any]) -> Handler:
        async def show(request: Request) -> Response:
            return JSONResponse(read(only_vip(request)))

        return show

    def large_noun(rows_of: Callable[[Address | None], Iterable[Row]]) -> Handler:
        async def show(request: Request) -> Response:
            body = await asyncio.to_thread(port_rows.encoded, rows_of(only_vip(request)))
            return Response(body, media_type="application/json")

        return show

    async def show_counters(request: Request) -> Response:
        return JSONResponse(counters.rows(only_vip(request), "zero" in request.query_params))

    async def show_status(request: Request) -> Response:
        return JSONResponse(await status())

    async def expose(request: Request) -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/v1/vips", vips, methods=["GET"]),
            Route("/v1/vips", add, methods=["POST"]),
            Route("/v1/vips/{vip}", vip, methods=["GET"]),
            Route("/v1/vips/{vip}", change, methods=["PATCH"]),
            Route("/v1/vips/{vip}", delete, methods=["DELETE"]),
            Route("/v1/vips/{vip}/impact", impact, methods=["GET"]),
            Route("/v1/drains", noun(lambda _: rows.drains())),
            Route("/v1/drains/{host}", drain, methods=["PUT"]),
            Route("/v1/drains/{host}", resume, methods=["DELETE"]),
            Route("/v1/hosts", noun(lambda _: rows.hosts())),
            Route("/v1/listeners", large_noun(rows.listeners)),
            Route("/v1/ports", large_noun(rows.ports)),
            Route("/v1/connections", noun(rows.connections)),
            Route("/v1/blocks", noun(lambda _: rows.blocks())),
            Route("/v1/counters", show_counters),
            Route("/v1/status", show_status),
            Route("/metrics", expose),
        ],
        exception_handlers={AnyportError: _error, Exception: _fault},
    )


async def _error(request: Request, error: Exception) -> Response:
    status = error.exit_status if isinstance(error, AnyportError) else 1
    body = {"error": str(error), "exit": status}
    return JSONResponse(body, status_code=400 if status == 2 else 503)


async def _fault(request: Request, error: Exception) -> Response:
    """One of anyport's own; the server logs the traceback after this answer."""
    what = f"a fault of anyport: {type(error).__name__}: {error}; see the daemon's log"
    return JSONResponse({"error": what, "exit": 1}, status_code=500)


def _pending(why: str | None) -> Response:
    return JSONResponse({"pending": why})


class Server(uvicorn.Server):
    """uvicorn on a socket of ours; the daemon, not the server, handles signals."""

    def __init__(self, app: Starlette, listening: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_config=None, log_level="warning", lifespan="off", access_log=False
            )
        )
        self._listening = listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def run_until_stopped(self) -> None:
        await self.serve(sockets=[self._listening])
