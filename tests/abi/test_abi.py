# SPDX-License-Identifier: Apache-2.0
"""anyport.kernel.abi against bpf/abi.h, as the compiler lays it out and BTF tells it."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from anyport.decide import rows
from anyport.kernel import abi
from anyport.kernel.loader import object_path
from anyport.model import Method

BPF = Path(__file__).parents[2] / "bpf"
HEADER = (BPF / "abi.h").read_text()
STRUCTS = re.findall(r"^struct (\w+) \{", HEADER, re.MULTILINE)
ENUMS = re.findall(r"^enum (\w+) \{", HEADER, re.MULTILINE)
NUMBERS = re.findall(r"^#define (\w+)[ \t]+\S", HEADER, re.MULTILINE)
COUNTS = {
    "FAMILIES": abi.Family,
    "PROTOCOLS": abi.Protocol,
    "LISTEN_COUNTERS": abi.ListenCounter,
    "TUNNEL_COUNTERS": abi.TunnelCounter,
    "VERDICT_COUNTERS": abi.Verdict,
}
OBJECTS = ["listen", "distribute", "target", "gather"]

Btf = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def header_btf(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    """Of a source that uses every type of the header: no type can be missing by chance."""
    lines = ['#include "abi.h"']
    lines += [f"struct {name} struct_{name};" for name in STRUCTS]
    lines += [f"enum {name} enum_{name};" for name in ENUMS]
    numbers = ", ".join(f"NUMBER_{name} = {name}" for name in NUMBERS)
    lines.append(f"enum numbers {{ {numbers} }} numbers;")
    source = tmp_path_factory.mktemp("abi") / "abi.c"
    source.write_text("\n".join(lines))
    built = source.with_suffix(".o")
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout
    include = [f"-I{BPF}", f"-I/usr/include/{machine.strip()}-linux-gnu"]
    command = [
        "clang",
        "-g",
        "-O2",
        "-target",
        "bpf",
        *include,
        "-c",
        str(source),
        "-o",
        str(built),
    ]
    subprocess.run(command, check=True)
    return btf_of(built)


@pytest.mark.parametrize("name", STRUCTS)
def test_struct(header_btf: Btf, name: str) -> None:
    assert layout(mirrored(name)) == btf_layout(header_btf, name)


@pytest.mark.parametrize("name", ENUMS)
def test_enum(header_btf: Btf, name: str) -> None:
    in_c = constants(header_btf, name)
    in_python = {member.name: member.value for member in mirrored(name)}
    for count in COUNTS.keys() & in_c.keys():
        assert in_c.pop(count) == len(COUNTS[count])
    assert in_python == unprefixed(in_c)


@pytest.mark.parametrize("name", NUMBERS)
def test_number(header_btf: Btf, name: str) -> None:
    assert getattr(abi, name) == constants(header_btf, "numbers")[f"NUMBER_{name}"]


@pytest.mark.parametrize("object", OBJECTS)
def test_objects_are_built_from_this_header(object: str) -> None:
    """Those of its structs that an object's BTF has are laid out the same there."""
    btf = btf_of(object_path(object))
    present = {t["name"] for t in btf.values() if t["kind"] == "STRUCT"} & set(STRUCTS)
    assert present
    for name in present:
        assert layout(mirrored(name)) == btf_layout(btf, name), name


def test_nothing_is_there_that_the_header_has_not() -> None:
    classes = {n for n, v in vars(abi).items() if isinstance(v, type) and n in abi.__all__}
    assert classes == {camel(name) for name in (*STRUCTS, *ENUMS)}


def test_methods_have_the_numbers_of_the_header() -> None:
    numbers = {method.name: number for method, number in rows.METHOD_NUMBERS.items()}
    assert numbers == {member.name: member.value for member in abi.SelectionMethod}
    assert len(numbers) == len(Method)


@pytest.mark.parametrize("text", ["10.1.2.3", "0.0.0.0", "255.255.255.255", "::", "fd00::1"])
def test_address_round_trip(text: str) -> None:
    address = ip_address(text)
    assert abi.unpack_address(abi.pack_address(address)) == address
    assert abi.Address.of(address).unpack() == address


def test_ipv4_is_v4_mapped() -> None:
    assert abi.pack_address(ip_address("10.1.2.3")).hex() == "00000000000000000000ffff0a010203"
    assert abi.unpack_address(bytes(16)) == ip_address("::")


Layout = tuple[int, dict[str, tuple[int, int]]]


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def mirrored(name: str) -> Any:
    return getattr(abi, camel(name))


def layout(struct: type[ctypes.Structure]) -> Layout:
    members = {field[0]: getattr(struct, field[0]) for field in struct._fields_}
    return ctypes.sizeof(struct), {name: (m.offset, m.size) for name, m in members.items()}


def btf_of(path: Path) -> Btf:
    command = ["/usr/sbin/bpftool", "-j", "btf", "dump", "file", str(path), "format", "raw"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {t["id"]: t for t in json.loads(done.stdout)["types"]}


def btf_layout(btf: Btf, name: str) -> Layout:
    struct = find(btf, "STRUCT", name)
    members = {
        m["name"]: (m["bits_offset"] // 8, size_of(btf, m["type_id"])) for m in struct["members"]
    }
    return struct["size"], members


def size_of(btf: Btf, number: int) -> int:
    kind = btf[number]
    if kind["kind"] == "ARRAY":
        return int(kind["nr_elems"]) * size_of(btf, kind["type_id"])
    if "size" in kind:
        return int(kind["size"])
    return size_of(btf, kind["type_id"])


def find(btf: Btf, kind: str, name: str) -> dict[str, Any]:
    return next(t for t in btf.values() if (t["kind"], t["name"]) == (kind, name))


def constants(btf: Btf, name: str) -> dict[str, int]:
    return {value["name"]: value["val"] for value in find(btf, "ENUM", name)["values"]}


def unprefixed(values: dict[str, int]) -> dict[str, int]:
    """Without the first word, if all share it: ROUTE_UNIQUE is UNIQUE."""
    word = next(iter(values)).split("_")[0] + "_"
    if not all(name.startswith(word) for name in values):
        return values
    return {name.removeprefix(word): value for name, value in values.items()}
