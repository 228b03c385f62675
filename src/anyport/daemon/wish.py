# SPDX-License-Identifier: Apache-2.0
"""What the operator asks for, as it comes in: JSON, checked once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, TypeVar

import msgspec

from anyport.config import readable
from anyport.errors import UsageError
from anyport.model import Definition, Method
from anyport.model.definition import MAX_UDP_IDLE_SECONDS, parse_ports

_Word = TypeVar("_Word")
_Noun = TypeVar("_Noun")


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a definition to set; None: as it is. `hosts`: `all`, or names."""

    vip: str | None = None
    ports: str | None = None
    method: str | None = None
    hosts: list[str] | str | None = None
    udp_idle: Annotated[int, msgspec.Meta(ge=1, le=MAX_UDP_IDLE_SECONDS)] | None = None

    def applied(self, definition: Definition) -> Definition:
        """`definition` with these fields. Raises UsageError."""
        if self.ports is not None:
            definition = replace(definition, ports=_parsed(parse_ports, self.ports))
        if self.method is not None:
            definition = replace(definition, method=_parsed(_method, self.method))
        if self.hosts is not None:
            definition = replace(definition, hosts=_parsed(_hosts, self.hosts))
        if self.udp_idle is not None:
            definition = replace(definition, udp_idle=self.udp_idle)
        return definition


def parse(body: bytes) -> Wish:
    """Raises UsageError, one line that names the field."""
    try:
        return msgspec.json.decode(body, type=Wish)
    except msgspec.ValidationError as error:
        raise UsageError(f"the request: {readable(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UsageError("the request: not JSON") from None


def _parsed(parse: Callable[[_Word], _Noun], word: _Word) -> _Noun:
    try:
        return parse(word)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _method(word: str) -> Method:
    allowed = [method.value for method in Method]
    if word not in allowed:
        raise ValueError(f"method {word!r}: allowed are {', '.join(allowed)}")
    return Method(word)


def _hosts(word: list[str] | str) -> frozenset[str] | None:
    if isinstance(word, list):
        return frozenset(word)
    if word != "all":
        raise ValueError(f"hosts {word!r}: allowed are `all` or a list of names")
    return None
