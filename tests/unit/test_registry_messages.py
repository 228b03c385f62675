# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from anyport.registry.messages import etcd_pb2

ROOT = Path(__file__).parents[2]
PROTO = "anyport/registry/messages/etcd.proto"


def _compile(directory: Path) -> FileDescriptorProto:
    output = directory / "descriptors"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'src'}"),
            *(f"--descriptor_set_out={output}", f"--pyi_out={directory}", PROTO),
        ],
        check=True,
    )
    (descriptor,) = FileDescriptorSet.FromString(output.read_bytes()).file
    return descriptor


def test_the_generated_messages_are_current(tmp_path: Path) -> None:
    """Their content, not their text, which differs from one protoc to the next."""
    pytest.importorskip("grpc_tools")
    source = _compile(tmp_path)
    generated = FileDescriptorProto()
    etcd_pb2.DESCRIPTOR.CopyToProto(generated)
    source.ClearField("source_code_info")
    for descriptor in (source, generated):  # json names are filled in by some versions only
        _forget_json_names(descriptor)
    assert generated == source, "run packaging/generate-messages"
    stub = Path(str(etcd_pb2.__file__)).with_suffix(".pyi")
    fresh = tmp_path / Path(PROTO).with_name("etcd_pb2.pyi")
    assert _fields(stub) == _fields(fresh), "run packaging/generate-messages"


def _forget_json_names(descriptor: FileDescriptorProto) -> None:
    for message in descriptor.message_type:
        for field in message.field:
            field.ClearField("json_name")


def _fields(stub: Path) -> dict[str, set[str]]:
    """Names declared in each class of a .pyi file."""
    return {
        node.name: {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        for node in ast.walk(ast.parse(stub.read_text()))
        if isinstance(node, ast.ClassDef)
    }


def test_the_names_collide_with_no_other_client() -> None:
    assert etcd_pb2.DESCRIPTOR.package == "anyport.etcd"
    assert etcd_pb2.DESCRIPTOR.name == PROTO


def test_the_command_line_does_not_pay_for_grpc() -> None:
    program = (
        "import sys, anyport.registry, anyport.registry.base, anyport.registry.mirror\n"
        "sys.exit('grpc' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
