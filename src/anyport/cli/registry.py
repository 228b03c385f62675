# SPDX-License-Identifier: Apache-2.0
"""`anyport registry`: who may write what in etcd. Speaks to etcd itself, not to the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from anyport.cli.options import config_option, config_path
from anyport.errors import RegistryRefused, UsageError

if TYPE_CHECKING:
    from anyport.config import RegistryConfig
    from anyport.registry.roles import Step

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


class Identity(NamedTuple):
    """A client certificate that the command line names."""

    cert: Path | None
    key: Path | None


@click.group()
@config_option
def registry() -> None:
    """The etcd that the hosts share."""


@registry.command()
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option(
    "--operator", "operators", multiple=True, metavar="NAME", help="Who may add and change VIPs."
)
@click.option("--apply", "apply_", is_flag=True, help="Do it, instead of printing the commands.")
@click.option("--enable", is_flag=True, help="With --apply: have etcd ask for users from now on.")
@click.option("--cert", type=_FILE, help="Client certificate of etcd's root user; with --key.")
@click.option("--key", type=_FILE, help="Its key. Default: those of the configuration.")
@config_option
def init(
    hosts: tuple[str, ...],
    operators: tuple[str, ...],
    apply_: bool,
    enable: bool,
    cert: Path | None,
    key: Path | None,
) -> None:
    """Users and roles of etcd, as etcdctl commands.

    Each HOST (default: those in the registry) writes beneath its own prefix
    only, each --operator, a host or anybody else, definitions. Users are the
    common names of client certificates. Again does no harm.
    """
    import asyncio

    if enable and not apply_:
        raise UsageError("--enable wants --apply")
    if (cert is None) != (key is None):
        raise UsageError("--cert and --key go together: give both or neither")
    asyncio.run(_init(hosts, operators, apply_, enable, Identity(cert, key)))


async def _init(
    hosts: tuple[str, ...],
    operators: tuple[str, ...],
    apply: bool,
    enable: bool,
    identity: Identity,
) -> None:
    from anyport.registry import roles

    names = hosts or await _known_hosts(identity)
    steps = roles.plan(names, operators)
    if not operators:
        click.echo("anyport: nobody is named by --operator: only root can add VIPs", err=True)
    if not apply:
        for step in (*steps, roles.ENABLE):
            click.echo(step.command)
        return
    await _apply((*steps, *([roles.ENABLE] if enable else [])), identity)
    click.echo(f"users and roles of {len(names)} hosts are in etcd")
    if not enable:
        click.echo(
            f"they hold once authentication is on: with a certificate of {roles.ROOT!r} at hand, "
            "do this with --enable"
        )


async def _apply(steps: tuple[Step, ...], identity: Identity) -> None:
    from anyport.registry import roles
    from anyport.registry.channels import Channels
    from anyport.registry.endpoints import parse_endpoints

    settings, cert, key = _access(identity)
    ca = Path(settings.ca) if settings.ca else None
    channels = Channels(parse_endpoints(settings.endpoints, ca=ca, cert=cert, key=key), 5.0)
    try:
        await roles.apply(channels, steps)
    except RegistryRefused as error:
        raise RegistryRefused(
            f"{error}; only {roles.ROOT!r} changes users: name its certificate "
            "with --cert and --key"
        ) from None
    finally:
        await channels.close()


async def _known_hosts(identity: Identity) -> tuple[str, ...]:
    from anyport.registry.etcd import EtcdRegistry
    from anyport.registry.keys import HOSTS, HostKey, parse

    settings, cert, key = _access(identity)
    ca = Path(settings.ca) if settings.ca else None
    registry = EtcdRegistry(settings.endpoints, ca=ca, cert=cert, key=key)
    try:
        listing = await registry.list(HOSTS)
    finally:
        await registry.close()
    keys = (parse(entry.key) for entry in listing.entries)
    names = tuple(key.host for key in keys if isinstance(key, HostKey))
    if not names:
        raise UsageError("no host is in the registry: name them, as `anyport registry init a b c`")
    return names


def _access(identity: Identity) -> tuple[RegistryConfig, Path | None, Path | None]:
    """The configured endpoints and authority; certificate and key given or configured."""
    from anyport import config

    settings = config.load(config_path()).registry
    if not settings.endpoints:
        raise UsageError(
            "registry.endpoints: none are configured, and an etcd of anyport's own has no users"
        )
    if identity.cert is not None or not settings.cert:
        return settings, identity.cert, identity.key
    return settings, Path(settings.cert), Path(settings.key)
