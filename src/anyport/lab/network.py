# SPDX-License-Identifier: Apache-2.0
"""The lab's network: one namespace a node, each with a veth pair to a bridge (ip-netns(8)).

Flat: one LAN. Routed: three, and a router with an interface in each; the
bridges are all in the namespace of `lan`, which carries nothing between them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence

from anyport.errors import AnyportError
from anyport.lab.node import CLIENT, LAN, ROUTER, Node, Subnet

_EVERYWHERE = ("default", "::/0")
_FORWARDING = (
    "echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
    # A target's answers come from the VIP, by another interface than leads to it; and what route
    # a host has is the lab's user's to say.
    " && for one in rp_filter send_redirects; do"
    " for file in /proc/sys/net/ipv4/conf/*/$one; do echo 0 >$file; done; done"
)


def build(nodes: Sequence[Node]) -> None:
    """`nodes` begin with the LAN; with a router among them the lab is routed.

    Raises AnyportError with what ip(8) says.
    """
    lan, *others = nodes
    assert lan.name == LAN
    router = next((node for node in others if node.name == ROUTER), None)
    _batch([], [f"netns add {node.namespace}" for node in nodes])
    _batch(["-n", lan.namespace], _bridges(lan, others))
    for node in others:
        _batch(["-n", node.namespace], _router(node) if node is router else _member(node))
    if router is not None:
        _forward(router)
        for node in (lan, *others):
            if node is not router:
                _batch(["-n", node.namespace], _default_route(node, router))


def remove(nodes: Iterable[Node]) -> None:
    """The veth pairs and the bridges go with their namespaces."""
    _batch([], [f"netns delete {node.namespace}" for node in nodes])


def _bridges(lan: Node, others: Sequence[Node]) -> list[str]:
    commands = ["link set lo up"]
    for subnet in sorted({subnet for node in others for subnet, _, _ in _interfaces(node)}):
        commands += [
            f"link add {subnet.bridge} type bridge mcast_snooping 0",
            f"link set {subnet.bridge} up",
        ]
    commands += _addresses(lan.interface, lan.subnet, lan)
    for node in others:
        for subnet, end, interface in _interfaces(node):
            commands += [
                f"link add {end} type veth peer name {interface} netns {node.namespace}",
                f"link set {end} master {subnet.bridge} up",
            ]
    return commands


def _interfaces(node: Node) -> Iterator[tuple[Subnet, str, str]]:
    """Where it is, the name of the end at the bridge, and that of the node's own."""
    if node.name != ROUTER:
        yield node.subnet, node.name, node.interface
        return
    for subnet in Subnet:
        yield subnet, f"{node.name}{subnet.value}", f"eth{subnet.value}"


def _member(node: Node) -> list[str]:
    commands = [
        "link set lo up",
        f"link set {node.interface} up",
        *_addresses(node.interface, node.subnet, node),
    ]
    if node.name == CLIENT and node.subnet is Subnet.LAN:
        # so that a VIP of any network is asked for on the LAN
        commands += [f"route add {all_} dev {node.interface}" for all_ in _EVERYWHERE]
    return commands


def _router(node: Node) -> list[str]:
    commands = ["link set lo up"]
    for subnet, _, interface in _interfaces(node):
        commands += [f"link set {interface} up", *_addresses(interface, subnet, node)]
    return commands


def _default_route(node: Node, router: Node) -> list[str]:
    subnet, number = node.subnet, router.number
    gateways = (subnet.address(number), subnet.address6(number))
    return [f"route add {all_} via {by}" for all_, by in zip(_EVERYWHERE, gateways, strict=True)]


def _addresses(interface: str, subnet: Subnet, node: Node) -> list[str]:
    """The link-local one besides the kernel's own, which is of no use for the second or two of
    its duplicate address detection: until then no neighbour could be solicited."""
    return [
        f"address add {subnet.address(node.number)}/24 dev {interface}",
        f"address add {subnet.address6(node.number)}/64 dev {interface} nodad",
        f"address add {node.link_local}/64 dev {interface} nodad",
    ]


def _forward(router: Node) -> None:
    command = ["nsenter", f"--net=/run/netns/{router.namespace}", "sh", "-c", _FORWARDING]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AnyportError(f"lab: {router.name}: forwarding: {done.stderr.strip()}")


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
