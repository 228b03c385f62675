# SPDX-License-Identifier: Apache-2.0
"""`anyport drain` and `anyport resume`: a host leaves politely, and comes back."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import click

from anyport.cli.options import client, config_option, config_path, json_option
from anyport.cli.tables import print_json
from anyport.errors import AnyportError

_POLL_SECONDS = 0.5
_NAMED = 10

_host_argument = click.argument("host", required=False)


@click.command()
@_host_argument
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    is_flag=False,
    flag_value=math.inf,
    metavar="[SECONDS]",
    help="Wait until its connections have finished, so long at most.",
)
@click.option("--yes", is_flag=True, help="Even if nobody else could distribute a VIP.")
@config_option
@json_option
def drain(host: str | None, wait: float | None, yes: bool, as_json: bool) -> int:
    """Give HOST, by default this one, no new connections.

    Established ones finish; VIPs that it distributes are handed on. Its unique
    ports stay its own. It stays drained, restarts included, until `anyport
    resume`. Exit status 1 if connections are left when --wait ends,
    or if HOST is away, which ends it at once.
    """
    name = host or _this_host()
    answer = client().drain(name, anyway=yes)
    _warn(answer)
    row = _row(name)
    if wait is not None:
        for row in _progress(name, wait):
            if not as_json:
                click.echo(_state(row), err=True)
    if as_json:
        print_json(row | {"refused": answer["refused"]})
    elif wait is None or _is_done(row):
        click.echo(_state(row))
    return 0 if wait is None or _is_done(row) else 1


@click.command()
@_host_argument
@config_option
@json_option
def resume(host: str | None, as_json: bool) -> None:
    """Give HOST, by default this one, new connections again.

    It takes back no VIP that it has handed on.
    """
    name = host or _this_host()
    answer = client().resume(name)
    if as_json:
        print_json({"host": name} | answer)
    else:
        click.echo(f"{name} takes new connections")


def _this_host() -> str:
    from anyport import config

    return config.load(config_path()).host.name


def _warn(answer: dict[str, Any]) -> None:
    if answer["pending"]:
        click.echo(f"anyport: {answer['pending']}", err=True)
    refused = [f"{p['vip']} {p['port']}/{p['protocol']}" for p in answer["refused"]]
    if refused:
        more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
        click.echo(
            "anyport: no other host listens there, new connections are refused: "
            f"{', '.join(refused[:_NAMED])}{more}",
            err=True,
        )


def _row(host: str) -> dict[str, Any]:
    """Raises AnyportError if it is drained no more: somebody else has resumed it."""
    for row in client().get("drains"):
        if row["host"] == host:
            return dict(row)
    raise AnyportError(f"{host} is not drained any more: somebody has resumed it")


def _progress(host: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Its row each time that it says something new, the last one done or `seconds` old."""
    deadline = time.monotonic() + seconds
    said = None
    while True:
        row = _row(host)
        over = _is_done(row) or not row["member"] or time.monotonic() >= deadline
        if over or row != said:
            yield row
        if over:
            return
        said = row
        time.sleep(_POLL_SECONDS)


def _is_done(row: dict[str, Any]) -> bool:
    return row["member"] and row["connections_left"] == 0 and not row["distributes"]


def _state(row: dict[str, Any]) -> str:
    if _is_done(row):
        return f"{row['host']} is drained"
    if not row["member"]:
        return f"{row['host']} is away: nobody can say which connections it has"
    left = row["connections_left"]
    told = [] if left is None else [f"{left} connection{'' if left == 1 else 's'} left"]
    if row["distributes"]:
        told.append(f"it distributes {', '.join(row['distributes'])} still")
    return f"{row['host']} drains: {', '.join(told) or 'its connections are yet to be counted'}"
