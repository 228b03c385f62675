# SPDX-License-Identifier: Apache-2.0
"""How rows are printed: JSON, a table in a terminal, or plain columns in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

Row = Mapping[str, Any]

_MANY = 2000  # rich takes its time: seconds for the 65,535 ports a VIP may have


def print_rows(rows: Sequence[Row], columns: Sequence[str], as_json: bool) -> None:
    """All `columns` of each row, in this order; JSON has every key of the row."""
    if as_json:
        print_json(rows)
        return
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    if sys.stdout.isatty() and len(rows) <= _MANY:
        _print_table(columns, cells)
    else:
        _print_columns(columns, cells)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def print_fields(fields: Mapping[str, Any], indent: str = "") -> None:
    """`name: value` lines; mappings and lists of mappings are indented beneath their name."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        nested = _nested(value)
        if not nested:
            click.echo(f"{indent}{name:{width}}  {cell(value)}".rstrip())
            continue
        click.echo(f"{indent}{name}")
        for part in nested:
            print_fields(part, indent + "  ")


def cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case [{"host": _}, *_]:
            return ", ".join(map(_target, value))
        case [{"family": _}, *_]:
            return ", ".join(map(_path, value))
        case list():
            return ", ".join(map(cell, value)) or "-"
        case dict():
            return ", ".join(f"{name}={cell(part)}" for name, part in value.items()) or "-"
    return _printable(str(value))


def _printable(text: str) -> str:
    """A process may name itself, or a host describe itself, in a terminal's control sequences."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _target(target: Row) -> str:
    """`host1 (100, 12)`: weight and connections; the latter where they are known."""
    known = [target.get("weight"), target.get("connections")]
    return f"{target['host']} ({', '.join(cell(n) for n in known if n is not None)})"


def _path(path: Row) -> str:
    """`ipv4 ipip 10.1.0.3`: where a path has an end, it is shown."""
    return " ".join(filter(None, (path["family"], path["path"], path["address"])))


def _nested(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, dict) and value:
        return [value]
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return value
    return []


def _print_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(_heading(column), overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    Console().print(table)


def _print_columns(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Never cut and never wrapped: what reads a pipe is grep."""
    lines = [list(map(_heading, columns)), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = (
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    click.echo("\n".join(text))


def _heading(column: str) -> str:
    if column == "targets":
        return "targets (weight, connections)"
    return column.replace("_", " ")
