# SPDX-License-Identifier: Apache-2.0
"""What pinned maps hold is as recorded: no change of it goes without a thought of its number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anyport.kernel import abi, layouts
from anyport.kernel.loader import object_path
from tests.abi.test_abi import (
    OBJECTS,
    STRUCTS,
    Btf,
    Layout,
    btf_layout,
    btf_of,
    layout,
    mirrored,
)

RECORD = Path(__file__).with_name("layouts.txt")
SPDX = "# SPDX-License-Identifier: Apache-2.0"
NOT_PINNED = {"former", "answers", "gathered", "asked"}
# What maps hold as plain numbers: BTF does not tie them to these.
MEANINGS = [value for value in vars(abi).values() if isinstance(value, type(abi.Verdict))]


def test_layouts_are_as_recorded(tmp_path: Path) -> None:
    now = tmp_path / RECORD.name
    now.write_text("\n".join([SPDX, *maps(), *structs(), *meanings(), ""]))
    assert now.read_text() == RECORD.read_text(), (
        "raise the number (src/anyport/kernel/layouts.py) of each map that holds what has changed, "
        f"if it is in use anywhere; then make {now} the new {RECORD}"
    )


def maps() -> Iterator[str]:
    for object in OBJECTS:
        btf = btf_of(object_path(object))
        for name, definition in sorted(map_definitions(btf).items()):
            if name not in NOT_PINNED:
                yield f"map {name}, layout {layouts.LAYOUTS.get(name)}:"
                yield from (f"    {line}" for line in described(btf, definition))


def map_definitions(btf: Btf) -> dict[str, Any]:
    """Of the section .maps: name -> the struct that says what the map is."""
    section = next(t for t in btf.values() if t["name"] == ".maps")
    variables = [btf[entry["type_id"]] for entry in section["vars"]]
    return {variable["name"]: btf[variable["type_id"]] for variable in variables}


def described(btf: Btf, definition: Any) -> Iterator[str]:
    """`type` and the like are pointers to arrays of so many; keys and values to their type."""
    for member in definition["members"]:
        kind = btf[member["type_id"]]
        target = btf[kind["type_id"]] if kind["kind"] == "PTR" else kind
        if target["kind"] == "STRUCT":
            told = fields(target["name"], btf_layout(btf, target["name"]))
            yield f"{member['name']}: {told}"
        elif target["kind"] == "ARRAY" and member["name"] != "values":
            yield f"{member['name']}: {target['nr_elems']}"
        elif target["kind"] == "ARRAY":
            inner = btf[btf[target["type_id"]]["type_id"]]
            yield f"values: {', '.join(described(btf, inner))}"
        else:
            yield f"{member['name']}: {target['name']}"


def structs() -> Iterator[str]:
    """Those within others, too; test_abi has them equal in C and Python."""
    return (fields(name, layout(mirrored(name))) for name in sorted(STRUCTS))


def fields(name: str, layout: Layout) -> str:
    size, members = layout
    told = ", ".join(f"{field} {offset}+{length}" for field, (offset, length) in members.items())
    return f"struct {name}, {size} bytes: {told}"


def meanings() -> Iterator[str]:
    for meaning in sorted(MEANINGS, key=lambda meaning: meaning.__name__):
        yield f"enum {meaning.__name__}: " + ", ".join(f"{m.name} {m.value}" for m in meaning)
    for name in sorted(abi.__all__):
        if isinstance(getattr(abi, name), int):
            yield f"{name}: {getattr(abi, name)}"
