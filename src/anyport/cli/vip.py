# SPDX-License-Identifier: Apache-2.0
"""`anyport vip`: the operator's definitions."""

from __future__ import annotations

import sys
from typing import Any

import click

from anyport.cli.options import (
    ADDRESS,
    HOSTS,
    METHOD,
    PORTS,
    UDP_IDLE,
    client,
    config_option,
    hosts_value,
    json_option,
)
from anyport.cli.tables import print_fields, print_json, print_rows
from anyport.errors import AnyportError, UsageError

_VIP = ("vip", "ports", "method", "hosts", "distributor", "term")

_ports_option = click.option(
    "--ports", type=PORTS, help="`any`, or an enumeration as 80,443,8000-8100/tcp,53/udp."
)
_method_option = click.option("--method", type=METHOD, help="`hash` or `round-robin`.")
_hosts_option = click.option("--hosts", type=HOSTS, help="`all`, or names as a,b,c.")
_udp_idle_option = click.option(
    "--udp-idle",
    type=UDP_IDLE,
    metavar="SECONDS",
    help="A UDP flow silent for longer may go to another host.",
)


@click.group()
@config_option
def vip() -> None:
    """Add, change, delete and show VIPs."""


@vip.command()
@click.argument("addr", type=ADDRESS)
@_ports_option
@_method_option
@_hosts_option
@_udp_idle_option
@config_option
def add(
    addr: str, ports: str | None, method: str | None, hosts: str | None, udp_idle: int | None
) -> None:
    """Add a VIP.

    Any ports, by hash, on all hosts, UDP flows idle for 60 s at most, unless
    said otherwise.
    """
    fields = _given(ports or "any", method or "hash", hosts or "all", udp_idle)
    _warn(client().add_vip(addr, **fields))


@vip.command("set")
@click.argument("addr", type=ADDRESS)
@_ports_option
@_method_option
@_hosts_option
@_udp_idle_option
@config_option
def set_(
    addr: str, ports: str | None, method: str | None, hosts: str | None, udp_idle: int | None
) -> None:
    """Change what is given of a VIP, while it runs."""
    fields = _given(ports, method, hosts, udp_idle)
    if not fields:
        raise UsageError("nothing to change: give --ports, --method, --hosts or --udp-idle")
    _warn(client().set_vip(addr, **fields))


@vip.command()
@click.argument("addr", type=ADDRESS)
@click.option("--yes", is_flag=True, help="Even if connections live.")
@config_option
@json_option
def delete(addr: str, yes: bool, as_json: bool) -> None:
    """Delete a VIP; its connections end.

    Says which listeners and connections that concerns, and asks first if
    connections live, or may.
    """
    impact = client().impact(addr)
    if impact["connections"] and not yes:
        _confirm(f"vip {addr}: {_told(impact)}")
    answer = client().delete_vip(addr)
    if as_json:
        print_json(impact | answer)
    else:
        click.echo(f"vip {addr} is deleted: {_told(impact)}")
    _warn(answer)


@vip.command("list")
@config_option
@json_option
def list_(as_json: bool) -> None:
    """Every VIP, and which host distributes it."""
    print_rows(client().get("vips"), _VIP, as_json)


@vip.command()
@click.argument("addr", type=ADDRESS)
@config_option
@json_option
def show(addr: str, as_json: bool) -> None:
    """One VIP."""
    found = client().vip(addr)
    if as_json:
        print_json(found)
    else:
        print_fields(found)


def _confirm(what: str) -> None:
    """Raises click.Abort at a no, AnyportError if there is nobody to ask."""
    if not sys.stdin.isatty():
        raise AnyportError(f"{what}; `--yes` deletes it all the same")
    click.confirm(f"{what}. Delete it?", abort=True, err=True)


def _told(impact: dict[str, Any]) -> str:
    """`3 listeners (a 2, b 1), 12 connections (a 12), and those of b, which b knows`."""
    connections = impact["connections"]
    live = {host: n for host, n in connections.items() if n is not None}
    unknown = [host for host, n in connections.items() if n is None]
    told = f"{_sum('listener', impact['listeners'])}, {_sum('connection', live)}"
    if unknown:
        knows = impact["distributor"] or "nobody"
        told += f", and those of {', '.join(unknown)}, which {knows} knows"
    return told


def _sum(noun: str, counts: dict[str, int]) -> str:
    total = sum(counts.values())
    by_host = ", ".join(f"{host} {count}" for host, count in counts.items())
    return f"{total} {noun}{'' if total == 1 else 's'}" + (f" ({by_host})" if by_host else "")


def _given(
    ports: str | None, method: str | None, hosts: str | None, udp_idle: int | None
) -> dict[str, Any]:
    fields: dict[str, Any] = {"ports": ports, "method": method, "udp_idle": udp_idle}
    fields["hosts"] = None if hosts is None else hosts_value(hosts)
    return {name: value for name, value in fields.items() if value is not None}


def _warn(answer: Any) -> None:
    """It is done, but the daemon may have something to add: not in force yet, and why."""
    if isinstance(answer, dict) and answer.get("pending"):
        click.echo(f"anyport: {answer['pending']}", err=True)
