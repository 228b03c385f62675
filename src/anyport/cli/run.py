# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import click

from anyport.cli.options import config_option, config_path


@click.command()
@config_option
def run() -> int:
    """Run this host's daemon until it is told to stop."""
    from anyport import daemon

    return daemon.run(config_path())
