# SPDX-License-Identifier: Apache-2.0
"""Those compared: each a client, a target with servers and, between the two, a forwarder.

All on one kind of LAN, that of `anyport lab`: a namespace for each, a veth
pair to a bridge. Anyport's have labs of their own, where nothing is left out;
the peers share one with `direct`, each in a namespace that no other's hooks
are in.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from anyport.lab import Lab
from anyport.lab.node import LAN
from anyport.model import Protocol
from bench import peers, programs
from bench.cluster import FIRST_PORT, VIP, Cluster, Settings
from bench.rounds import progress
from bench.series import DIRECT

FLOOD_PORT = 4000
MANY = 10_000


@dataclass(frozen=True)
class Subject:
    """The client asks for `address`; packets come to `forwarder` first (DIRECT: the target)."""

    name: str
    lab: Lab
    address: str
    forwarder: str
    target: str
    is_proxy: bool = False

    def ask(self, *command: str) -> str:
        """What the client's program printed. Raises RuntimeError with its complaint."""
        return programs.run(self.lab, "client", *command)


@dataclass(frozen=True)
class Variant:
    """Anyport, with so many listeners on the VIP besides the servers'."""

    name: str
    listeners: int = 0
    settings: Settings = field(default_factory=dict)


VARIANTS = (Variant("anyport"), Variant(f"anyport, {MANY:,} listeners", MANY))


@contextlib.contextmanager
def world(variants: Sequence[Variant] = VARIANTS, prefix: str = "bench") -> Iterator[list[Subject]]:
    """`direct` first, then anyport, then the peers; nothing is left behind.

    The labs' names begin with `prefix`; what a killed run left of them goes first.
    """
    with ExitStack() as stack:
        progress("setting up the labs")
        files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anyport-bench-")))
        direct, *others = _peers(stack, files, f"{prefix}peers")
        anyport = [_anyport(stack, files, f"{prefix}{n}", v) for n, v in enumerate(variants)]
        yield [direct, *anyport, *others]


def _anyport(stack: ExitStack, files: Path, name: str, variant: Variant) -> Subject:
    cluster = stack.enter_context(Cluster(name, variant.settings))
    lab = cluster.lab
    _only_switch(lab)
    _widen(lab, "client")
    directory = _made(files / lab.name)
    peers.serve(stack, lab, cluster.target, directory, VIP)
    cluster.await_routes(peers.PORTS)
    for protocol in Protocol:
        cluster.listeners(FLOOD_PORT, 1, protocol).toggle()
    if variant.listeners:
        cluster.listeners(FIRST_PORT, variant.listeners).toggle()
    return Subject(variant.name, lab, VIP, cluster.distributor, cluster.target)


def _peers(stack: ExitStack, files: Path, name: str) -> list[Subject]:
    lab, target = Lab(name), "host1"
    lab.down()
    stack.callback(lab.down)
    lab.build(1 + len(peers.ALL))
    _only_switch(lab)
    _widen(lab, "client")
    peers.serve(stack, lab, target, _made(files / target), "0.0.0.0")
    found = [Subject(DIRECT, lab, lab.node(target).address, target, target)]
    for host, peer in zip(lab.hosts[1:], peers.ALL, strict=True):
        _widen(lab, host)
        peer.start(stack, lab, host, target, _made(files / host))
        found.append(Subject(peer.name, lab, lab.node(host).address, host, target, peer.is_proxy))
    return found


def _only_switch(lab: Lab) -> None:
    """The bridge is a wire here: nothing filters what crosses it (-e: where anything could)."""
    kinds = ("iptables", "ip6tables", "arptables")
    off = (f"net.bridge.bridge-nf-call-{kind}=0" for kind in kinds)
    programs.run(lab, LAN, "sysctl", "-e", "-qw", *off)


def _widen(lab: Lab, node: str) -> None:
    """Ports for as many connections a second: each waits a minute in TIME_WAIT on one side."""
    settings = ("net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1")
    programs.run(lab, node, "sysctl", "-qw", *settings)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
