# SPDX-License-Identifier: Apache-2.0
"""Users and roles of etcd: each host writes beneath its own prefix, an operator definitions.

A user is the common name of a client certificate
(https://etcd.io/docs/v3.4/op-guide/authentication/): no passwords.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from anyport.errors import RegistryError, UsageError
from anyport.registry.channels import Channels, Method
from anyport.registry.keys import OPERATORS, PREFIX, host_prefix, prefix_end
from anyport.registry.messages import etcd_pb2 as pb

HOST_ROLE = "anyport-host-"
OPERATOR_ROLE = "anyport-operator"
ROOT = "root"
"""etcd's name for the user, and the role, that may do all; there is no authentication without."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call to etcd; `words`: the same as arguments of etcdctl."""

    words: tuple[str, ...]
    path: str
    request: Message

    @property
    def command(self) -> str:
        return shlex.join(("etcdctl", *self.words))


def plan(hosts: Collection[str], operators: Collection[str]) -> tuple[Step, ...]:
    """What to do, in order; doing it again changes nothing, and nothing is taken from anybody.

    `operators`: users who may write definitions; hosts may be among them. Raises
    UsageError for names that no user of ours can have.
    """
    for name in (*hosts, *operators):
        _check(name)
    return (
        *_role(OPERATOR_ROLE, OPERATORS),
        *(step for host in sorted(hosts) for step in _role(HOST_ROLE + host, [host_prefix(host)])),
        _add_role(ROOT),
        *(_add_user(name) for name in (ROOT, *sorted({*hosts, *operators}))),
        _grant_role(ROOT, ROOT),
        *(_grant_role(host, HOST_ROLE + host) for host in sorted(hosts)),
        *(_grant_role(name, OPERATOR_ROLE) for name in sorted(operators)),
    )


ENABLE = Step(("auth", "enable"), "AuthEnable", pb.AuthEnableRequest())
"""From then on etcd asks everybody who he is."""


async def apply(channels: Channels, steps: Iterable[Step]) -> None:
    """Raises RegistryError; RegistryRefused, if only root may."""
    for step in steps:
        method = Method(f"/etcdserverpb.Auth/{step.path}", pb.AuthResponse)
        try:
            await channels.call(method, step.request)
        except RegistryError as error:
            if "already exists" not in str(error):
                raise


def _check(name: str) -> None:
    try:
        host_prefix(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if name == ROOT:
        raise UsageError(f"{ROOT!r}: etcd's name for who may do all; give the host another")


def _role(name: str, prefixes: Sequence[str]) -> tuple[Step, ...]:
    """Reads what anyport has, writes what is beneath `prefixes`."""
    writes = (_grant(name, pb.Permission.READWRITE, prefix) for prefix in prefixes)
    return _add_role(name), _grant(name, pb.Permission.READ, PREFIX), *writes


def _add_role(name: str) -> Step:
    return Step(("role", "add", name), "RoleAdd", pb.AuthRoleAddRequest(name=name))


def _grant(role: str, kind: pb.Permission.Type, prefix: str) -> Step:
    key = prefix.encode()
    permission = pb.Permission(permType=kind, key=key, range_end=prefix_end(key))
    word = pb.Permission.Type.Name(kind).lower()
    return Step(
        ("role", "grant-permission", "--prefix", role, word, prefix),
        "RoleGrantPermission",
        pb.AuthRoleGrantPermissionRequest(name=role, perm=permission),
    )


def _add_user(name: str) -> Step:
    options = pb.UserAddOptions(no_password=True)
    return Step(
        ("user", "add", "--no-password", name),
        "UserAdd",
        pb.AuthUserAddRequest(name=name, options=options),
    )


def _grant_role(user: str, role: str) -> Step:
    return Step(
        ("user", "grant-role", user, role),
        "UserGrantRole",
        pb.AuthUserGrantRoleRequest(user=user, role=role),
    )
