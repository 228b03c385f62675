# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import click

from anyport.cli.options import config_option, config_path


@click.command()
@config_option
def detach() -> None:
    """Remove from this host what a stopped daemon leaves behind.

    Its programs, VIPs, reserved ports, sysctls and own etcd; connections
    through it end. Stop the daemon first.
    """
    from anyport.daemon.detach import detach

    vips = detach(config_path())
    click.echo(f"detached; VIPs taken off lo: {', '.join(map(str, vips)) or 'none'}")
