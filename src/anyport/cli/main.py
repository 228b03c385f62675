# SPDX-License-Identifier: Apache-2.0
"""The `anyport` command: nouns show, verbs change. Exit status: 0, 1 failure, 2 usage.

Whatever a command does not need is imported by those that do, within them:
`anyport --help` must not wait for gRPC.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from anyport import __version__
from anyport.cli import detach, doctor, drain, lab, registry, run, show, vip
from anyport.cli.options import config_option
from anyport.errors import AnyportError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="anyport")
@config_option
def cli() -> None:
    """One IP address for a whole cluster: any program, any port, reachable at once."""


for command in (
    run.run,
    detach.detach,
    vip.vip,
    drain.drain,
    drain.resume,
    registry.registry,
    show.hosts,
    show.listeners,
    show.ports,
    show.connections,
    show.blocks,
    show.counters,
    show.status,
    doctor.doctor,
    lab.lab,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point. Returns the exit status; what went wrong is one line on stderr."""
    try:
        return int(cli.main(arguments, prog_name="anyport", standalone_mode=False) or 0)
    except AnyportError as error:
        return _complain(str(error), error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "anyport"
        return _complain(f"{error.format_message()} (see `{where} --help`)", 2)
    except click.ClickException as error:
        return _complain(error.format_message(), 1)
    except (click.Abort, KeyboardInterrupt):
        return 130


def _complain(message: str, status: int) -> int:
    line = " ".join(message.split("\n", 1)[0].split())
    rest = message.partition("\n")[2]
    click.echo(f"anyport: {line}" + (f"\n{rest}" if rest else ""), err=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
