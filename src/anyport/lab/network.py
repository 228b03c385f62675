# SPDX-License-Identifier: Apache-2.0
"""The lab's LAN: one namespace a node, each with a veth pair to a bridge (ip-netns(8))."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence

from anyport.errors import AnyportError
from anyport.lab.node import CLIENT, LAN, Node


def build(nodes: Sequence[Node]) -> None:
    """`nodes` begin with the LAN. Raises AnyportError with what ip(8) says."""
    lan, *others = nodes
    assert lan.name == LAN
    _batch([], [f"netns add {node.namespace}" for node in nodes])
    _batch(["-n", lan.namespace], _bridge(lan, others))
    for node in others:
        _batch(["-n", node.namespace], _member(node))


def remove(nodes: Iterable[Node]) -> None:
    """The veth pairs and the bridge go with their namespaces."""
    _batch([], [f"netns delete {node.namespace}" for node in nodes])


def _bridge(lan: Node, others: Sequence[Node]) -> list[str]:
    commands = [
        "link set lo up",
        f"link add {lan.interface} type bridge mcast_snooping 0",
        f"link set {lan.interface} up",
        *_addresses(lan),
    ]
    for node in others:
        commands += [
            f"link add {node.name} type veth peer name {node.interface} netns {node.namespace}",
            f"link set {node.name} master {lan.interface} up",
        ]
    return commands


def _member(node: Node) -> list[str]:
    commands = [
        "link set lo up",
        f"link set {node.interface} up",
        *_addresses(node),
    ]
    if node.name == CLIENT:  # so that a VIP of any network is asked for on the LAN
        commands += [f"route add {all_} dev {node.interface}" for all_ in ("default", "::/0")]
    return commands


def _addresses(node: Node) -> list[str]:
    """The link-local one besides the kernel's own, which is of no use for the second or two of
    its duplicate address detection: until then no neighbour could be solicited."""
    return [
        f"address add {node.address}/24 dev {node.interface}",
        f"address add {node.address6}/64 dev {node.interface} nodad",
        f"address add {node.link_local}/64 dev {node.interface} nodad",
    ]


def _batch(options: Sequence[str], commands: Sequence[str]) -> None:
    if not commands:
        return
    done = subprocess.run(
        ["ip", *options, "-batch", "-"],
        input="\n".join(commands) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        complaint = (done.stderr.splitlines() or [f"exit status {done.returncode}"])[0]
        raise AnyportError(f"lab: ip {' '.join(options)}: {complaint}")
