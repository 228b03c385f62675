# SPDX-License-Identifier: Apache-2.0
"""The nouns: what the daemon knows, as rows."""

from __future__ import annotations

from typing import Any

import click

from anyport.cli.options import ADDRESS, client, config_option, json_option
from anyport.cli.tables import print_fields, print_json, print_rows

_HOST = (
    "host",
    "address",
    "address6",
    "weight",
    "state",
    "draining_since",
    "connections_left",
    "since",
    "paths",
)
_LISTENER = ("vip", "protocol", "port", "host", "specific", "user", "process")
_PORT = ("vip", "protocol", "port", "route", "targets")
_CONNECTION = ("protocol", "client", "client_port", "vip", "port", "host")
_BLOCK = ("vip", "first", "last", "host", "used")
_COUNTER = (
    "program",
    "vip",
    "route",
    "path",
    "target",
    "reason",
    "packets",
    "bytes",
    "events",
)


@click.command()
@config_option
@json_option
def hosts(as_json: bool) -> None:
    """The hosts of the cluster."""
    print_rows(client().get("hosts"), _HOST, as_json)


@click.command()
@click.argument("vip", type=ADDRESS, required=False)
@config_option
@json_option
def listeners(vip: str | None, as_json: bool) -> None:
    """The listeners that count, of every host."""
    print_rows(client().get("listeners", vip=vip), _LISTENER, as_json)


@click.command()
@click.argument("vip", type=ADDRESS, required=False)
@config_option
@json_option
def ports(vip: str | None, as_json: bool) -> None:
    """The port table: where new connections to each port go."""
    print_rows(client().get("ports", vip=vip), _PORT, as_json)


@click.command()
@click.argument("vip", type=ADDRESS, required=False)
@config_option
@json_option
def connections(vip: str | None, as_json: bool) -> None:
    """Live connections: all on the distributor, else its own."""
    print_rows(client().get("connections", vip=vip), _CONNECTION, as_json)


@click.command()
@config_option
@json_option
def blocks(as_json: bool) -> None:
    """Port blocks: who holds them, and how many ports are used."""
    print_rows(client().get("blocks"), _BLOCK, as_json)


@click.command()
@click.argument("vip", type=ADDRESS, required=False)
@click.option("--all", "zero", is_flag=True, help="Also what has never happened here.")
@config_option
@json_option
def counters(vip: str | None, zero: bool, as_json: bool) -> None:
    """Packets and bytes by VIP, target and reason; what the host's programs did."""
    found = client().get("counters", vip=vip, zero="yes" if zero else None)
    print_rows(found, _COUNTER, as_json)


@click.command()
@config_option
@json_option
def status(as_json: bool) -> int:
    """Is it healthy, and if not, why? Exit status 1 if not."""
    found = client().get("status")
    if as_json:
        print_json(found)
    else:
        _print_status(found)
    return 0 if found["healthy"] else 1


def _print_status(found: dict[str, Any]) -> None:
    click.echo("healthy" if found["healthy"] else "NOT HEALTHY")
    for problem in found["problems"]:
        click.echo(f"  {problem}")
    click.echo()
    print_fields({k: v for k, v in found.items() if k not in ("healthy", "problems")})
