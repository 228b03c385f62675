# SPDX-License-Identifier: Apache-2.0
"""The other forwarders, from Debian's packages, and the servers that all forward to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from anyport.lab import Lab
from bench import programs

WEB, BULK = 80, 5201
PORTS = (WEB, BULK)

# What nftables' target answers from, so that its answers go back the same way.
_SECOND_ADDRESS, _TABLE = "10.77.0.61", "61"

_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"


@dataclass(frozen=True)
class Peer:
    """`start` makes `host` forward what comes to its address to `target`, all in `lab`.

    A proxy ends the client's connection and has one of its own to the target.
    """

    name: str
    start: Callable[[ExitStack, Lab, str, str, Path], None]
    is_proxy: bool


def serve(stack: ExitStack, lab: Lab, host: str, directory: Path, address: str) -> None:
    """nginx and iperf3 at a target, one process each."""
    events = "events { worker_connections 8192; }"
    servers = (
        "http { access_log off; keepalive_requests 1000000000;\n"
        f"server {{ listen {address}:{WEB} backlog=4096; return 200 'ok\\n'; }} }}"
    )
    _nginx(stack, lab, host, directory, ["worker_processes 1;", events, servers])
    bulk = ["iperf3", "-s", "-B", address, "-p", str(BULK)]
    programs.start(stack, lab, host, directory / "iperf3.log", *bulk)
    _await(lab, host, directory)


def nftables(stack: ExitStack, lab: Lab, host: str, target: str, directory: Path) -> None:
    """DNAT alone: the target's answers take their way back by a rule, so no masquerading.

    Packets of the flood are not what conntrack thinks a connection should be.
    """
    settings = (
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.eth0.send_redirects=0",
    )
    forwarder, here = lab.node(host).address, directory / "nat.nft"
    for command in (
        f"ip address add {_SECOND_ADDRESS}/32 dev eth0",
        f"ip route add default via {forwarder} dev eth0 table {_TABLE}",
        f"ip rule add from {_SECOND_ADDRESS} lookup {_TABLE}",
    ):
        programs.run(lab, target, *command.split())
    programs.run(lab, host, "sysctl", "-qw", *settings)
    here.write_text(
        "table ip bench { chain nat { type nat hook prerouting priority dstnat;\n"
        f"ip daddr {forwarder} meta l4proto {{ tcp, udp }} dnat to {_SECOND_ADDRESS}\n}}\n}}\n"
    )
    programs.run(lab, host, "nft", "-f", str(here))
    tracking = ("tcp_be_liberal=1", "tcp_timeout_time_wait=10")
    programs.run(lab, host, "sysctl", "-qw", *(f"net.netfilter.nf_conntrack_{t}" for t in tracking))


def haproxy(stack: ExitStack, lab: Lab, host: str, target: str, directory: Path) -> None:
    lines = ["global", " maxconn 4000", " nbthread 2", "defaults", " mode tcp"]
    lines += [f" timeout {kind} 60s" for kind in ("connect", "client", "server")]
    for port in PORTS:
        lines += [f"listen port{port}", f" bind {lab.node(host).address}:{port} backlog 4096"]
        lines += [f" server target {lab.node(target).address}:{port}"]
    here = directory / "haproxy.cfg"
    here.write_text("\n".join(lines) + "\n")
    command = ["haproxy", "-db", "-f", str(here)]
    programs.start(stack, lab, host, directory / "haproxy.log", *command)
    _await(lab, host, directory)


def nginx_stream(stack: ExitStack, lab: Lab, host: str, target: str, directory: Path) -> None:
    servers = "\n".join(
        f"server {{ listen {lab.node(host).address}:{port} backlog=4096;"
        f" proxy_pass {lab.node(target).address}:{port}; }}"
        for port in PORTS
    )
    head = [f"load_module {_MODULE};", "worker_processes 2;"]
    events = "events { worker_connections 8192; }"
    _nginx(stack, lab, host, directory, [*head, events, f"stream {{ {servers} }}"])
    _await(lab, host, directory)


ALL = (
    Peer("nftables DNAT", nftables, is_proxy=False),
    Peer("HAProxy", haproxy, is_proxy=True),
    Peer("nginx stream", nginx_stream, is_proxy=True),
)


def _nginx(
    stack: ExitStack, lab: Lab, host: str, directory: Path, configuration: Sequence[str]
) -> None:
    log, here = directory / "nginx.log", directory / "nginx.conf"
    lines = ["daemon off;", f"pid {directory}/pid;", "worker_rlimit_nofile 16384;", *configuration]
    here.write_text("\n".join(lines) + "\n")
    programs.start(stack, lab, host, log, "nginx", "-c", str(here), "-e", str(log))


def _await(lab: Lab, host: str, logs: Path) -> None:
    for port in PORTS:
        programs.await_listener(lab, host, port, logs)
