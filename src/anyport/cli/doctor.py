# SPDX-License-Identifier: Apache-2.0
"""`anyport doctor`: what this machine has and lacks. Needs none of it itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anyport.cli.options import config_option, config_path, json_option
from anyport.cli.tables import print_json, print_rows
from anyport.errors import AnyportError, ConfigError

if TYPE_CHECKING:
    from anyport.config import Config, DaemonConfig
    from anyport.kernel.features import Finding

_WORDS = {True: "found", False: "missing", None: "unknown"}


@click.command()
@config_option
@json_option
def doctor(as_json: bool) -> int:
    """Check what this machine needs.

    Exit status 1 if something required is missing.
    """
    findings = list(_findings())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_rows([_row(f) for f in findings], ("check", "found", "detail", "remedy"), False)
    return 1 if any(finding.fatal for finding in findings) else 0


def _findings() -> Iterator[Finding]:
    from anyport.kernel import features

    config, finding = _config()
    yield finding
    yield from features.kernel_findings()
    interface = config.host.interface if config else None
    yield from features.host_findings(interface, Path(_daemon(config).pins))
    if config is None or not config.registry.endpoints:
        yield _etcd()
    yield _health(_daemon(config))


def _config() -> tuple[Config | None, Finding]:
    from anyport import config
    from anyport.kernel.features import Finding

    path = config_path()
    try:
        return config.load(path), Finding("configuration", True, True, str(path))
    except ConfigError as error:
        return None, Finding("configuration", False, True, str(error), f"write {path}")


def _daemon(config: Config | None) -> DaemonConfig:
    from anyport.config import DaemonConfig

    return config.daemon if config else DaemonConfig()


def _etcd() -> Finding:
    from anyport.kernel.features import Finding

    where = shutil.which("etcd")
    remedy = "apt install etcd-server, or name [registry] endpoints"
    return Finding("etcd", where is not None, True, where or "no endpoints configured", remedy)


def _health(config: DaemonConfig) -> Finding:
    """What only a running daemon can check: its VIPs on lo, its programs where they were put."""
    from anyport.client import Client
    from anyport.kernel.features import Finding

    remedy = "start `anyport run`; what it complains of it says itself"
    try:
        found = Client(config.socket, wait_seconds=5).get("status")
    except AnyportError as error:
        return Finding("daemon", False, False, str(error), remedy)
    return Finding("daemon healthy", found["healthy"], False, "; ".join(found["problems"]), remedy)


def _row(finding: Finding) -> dict[str, str]:
    word = _WORDS[finding.found]
    if not finding.found and not finding.required:
        word += " (not required)"
    remedy = "" if finding.found else finding.remedy
    return {"check": finding.check, "found": word, "detail": finding.detail, "remedy": remedy}
