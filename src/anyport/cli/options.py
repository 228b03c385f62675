# SPDX-License-Identifier: Apache-2.0
"""Options and argument types that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anyport.errors import UsageError

if TYPE_CHECKING:
    from anyport.client import Client

Command = TypeVar("Command", bound=Callable[..., Any])

# anyport.config.DEFAULT_PATH, without the import: `--help` would wait for msgspec.
_DEFAULT_CONFIG = Path("/etc/anyport/anyport.toml")
_CONFIG = "anyport.config"


def _remember(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is not None:
        context.meta[_CONFIG] = path


# Before or after the command's name: `anyport --config F hosts`, `anyport hosts --config F`.
config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_remember,
    help=f"Configuration of the host to speak for. [env: ANYPORT_CONFIG; "
    f"default: {_DEFAULT_CONFIG}]",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def config_path() -> Path:
    """What --config or ANYPORT_CONFIG said, or the default."""
    named: Path | None = click.get_current_context().meta.get(_CONFIG)
    return named or Path(os.environ.get("ANYPORT_CONFIG") or _DEFAULT_CONFIG)


def client() -> Client:
    """The daemon of the host whose configuration is in force. Raises ConfigError."""
    from anyport import config
    from anyport.client import Client

    return Client(config.load(config_path()).daemon.socket)


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on only
    """A word that one of the model's parsers must accept; it is handed on in its normal form."""

    def __init__(self, name: str, parse: Callable[[str], str]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, _: object, __: object) -> str:
        try:
            return self._parse(value)
        except ValueError as error:
            raise UsageError(str(error)) from None


def _address(text: str) -> str:
    from ipaddress import ip_address

    try:
        if "%" not in text:  # a scope means something on one host only
            return str(ip_address(text))
    except ValueError:
        pass
    raise ValueError(f"address {text!r}: an IP address is wanted, as 192.0.2.10 or 2001:db8::10")


def _ports(text: str) -> str:
    from anyport.model.definition import parse_ports

    return str(parse_ports(text))


def _method(text: str) -> str:
    from anyport.model.definition import Method

    allowed = [method.value for method in Method]
    if text not in allowed:
        raise ValueError(f"method {text!r}: allowed are {', '.join(allowed)}")
    return text


def _hosts(text: str) -> str:
    if text != "all" and not all(name.strip() for name in text.split(",")):
        raise ValueError(f"hosts {text!r}: allowed are `all` or names as a,b,c")
    return text


ADDRESS = _Parsed("addr", _address)
PORTS = _Parsed("ports", _ports)
METHOD = _Parsed("method", _method)
HOSTS = _Parsed("hosts", _hosts)
UDP_IDLE = click.IntRange(1, 86400)


def hosts_value(text: str) -> str | list[str]:
    """As the daemon takes it: `all`, or the names."""
    return text if text == "all" else sorted({name.strip() for name in text.split(",")})
