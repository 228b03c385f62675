# SPDX-License-Identifier: Apache-2.0
"""`anyport lab`: the cluster in a box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from anyport.cli.options import ADDRESS, METHOD, PORTS, json_option
from anyport.cli.tables import print_rows
from anyport.errors import UsageError

if TYPE_CHECKING:
    from anyport.lab import Lab

_NODE = ("name", "address", "address6", "daemon", "healthy", "problems")

_name_option = click.option("--name", default="lab", show_default=True, help="Which lab.")


@click.group()
def lab() -> None:
    """A cluster in a box: hosts, client and etcd in namespaces."""


@lab.command()
@click.option("--hosts", type=click.IntRange(1, 50), default=3, show_default=True)
@click.option(
    "--vip",
    "vips",
    type=ADDRESS,
    multiple=True,
    help="A VIP to start with, as 10.77.0.200 or fd77::200; more than once for more.",
)
@click.option("--ports", type=PORTS, help="The VIPs' ports [default: any].")
@click.option("--method", type=METHOD, help="The VIPs' method [default: hash].")
@click.option(
    "--topology",
    type=click.Choice(["flat", "routed"]),
    default="flat",
    show_default=True,
    help="One LAN; or host1 and host2 on the VIPs' LAN, the other hosts and the client behind a"
    " router.",
)
@_name_option
def up(
    hosts: int,
    vips: tuple[str, ...],
    ports: str | None,
    method: str | None,
    topology: str,
    name: str,
) -> None:
    """Start a lab; returns when it is ready."""
    if not vips and (ports or method):
        raise UsageError("--ports and --method are a VIP's: give --vip too")
    wish: dict[str, Any] = {"ports": ports or "any", "method": method or "hash"}
    found = _lab(name)
    found.up(hosts, [{"vip": vip} | wish for vip in vips], routed=topology == "routed")
    others = ", ".join(name for name in ("client", "router") if name in found.names)
    on = f"VIP {', '.join(vips)} on " if vips else ""
    click.echo(f"lab {name} is up: {on}{', '.join(found.hosts)}; and {others}")
    click.echo(f"try: anyport lab exec{_naming(name)} host1 -- anyport status")


@lab.command("exec", context_settings={"allow_interspersed_args": False})
@_name_option
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in NODE: `client`, `host1`, ...

    Exit status and standard streams are the command's.
    """
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise UsageError("a command is wanted: anyport lab exec NODE -- COMMAND...")
    _lab(name).become(node, words)


@lab.command()
@_name_option
@json_option
def status(name: str, as_json: bool) -> int:
    """The nodes of a lab.

    Exit status 1 if a daemon is not healthy.
    """
    rows = _lab(name).status()
    print_rows(rows, _NODE, as_json)
    return 1 if any(row["healthy"] is False for row in rows) else 0


@lab.command()
@_name_option
def down(name: str) -> None:
    """Remove a lab and all that runs in it, whole or half there."""
    _lab(name).down()


def _lab(name: str) -> Lab:
    from anyport.lab import Lab

    return Lab(name)


def _naming(name: str) -> str:
    return "" if name == "lab" else f" --name {name}"
