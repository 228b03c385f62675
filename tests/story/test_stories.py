# SPDX-License-Identifier: Apache-2.0
"""Runs every *.story beside this file: events in, port table out. The pure core alone.

    host NAME [WEIGHT]                    a host joins, or its daemon restarts
    vip ADDR PORTS [METHOD] [HOSTS]       defined, or defined anew
    NAME opens ADDR:PORT/PROTOCOL [PROCESS] [v6only]
    NAME closes ADDR:PORT/PROTOCOL        one of the sockets there
    NAME crashes | drains | loses-records | reconciles
    NAME claims ADDR                      a port block; prints as `block A`, `block B`, ...
    NAME binds ADDR:0/PROTOCOL as LETTER  bind(VIP, 0); `as -`: it is refused
    publish ADDR                          the distributor says what it has programmed
    takeover                              a distributor with empty maps
    distributor-restarts                  the same one, which reads its maps
    table ADDR                            what follows, indented, is the whole port table
        PROTOCOL PORT distributed NAME:WEIGHT...
        PROTOCOL PORT unique NAME

In a table PORT may be the LETTER that a bind was given; the ports of blocks
without a listener are left out. Each table is also looked up, port by port,
in the simulated maps. `#` begins a comment.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from anyport.model import Definition, Distributed, Method, PortKey, Protocol, Route, Socket
from anyport.model.definition import Address, parse_ports
from tests.support.pure_cluster import PureCluster

STORIES = sorted(Path(__file__).parent.glob("*.story"))


@pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])
def test_story(path: Path) -> None:
    story = Story()
    for number, line, rows in paragraphs(path.read_text()):
        try:
            story.tell(line.split(), rows)
        except Exception as fault:
            fault.add_note(f"{path.name}:{number}: {line}")
            raise


def paragraphs(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, line, and the indented lines that belong to it."""
    found: list[tuple[int, str, list[str]]] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].rstrip()
        if line.startswith(" "):
            found[-1][2].append(" ".join(line.split()))
        elif line:
            found.append((number, line, []))
    yield from found


class Story:
    def __init__(self) -> None:
        self.cluster = PureCluster()
        self.letters: dict[int, str] = {}

    def tell(self, words: list[str], rows: list[str]) -> None:
        match words:
            case ["host", name, *weight]:
                self.cluster.join(name, *map(int, weight))
            case ["vip", vip, ports, *rest]:
                self.cluster.define(definition(vip, ports, rest))
            case ["publish", vip]:
                self.cluster.publish(ip_address(vip))
            case ["takeover"]:
                self.cluster.take_over()
            case ["distributor-restarts"]:
                self.cluster.restart_distributor()
            case ["table", vip]:
                self.compare(ip_address(vip), rows)
            case [name, *rest]:
                self.tell_of_host(name, rest)

    def tell_of_host(self, name: str, words: list[str]) -> None:
        match words:
            case ["opens", where, *rest]:
                address, protocol, port = endpoint(where)
                process = "".join(w for w in rest if w != "v6only")
                self.cluster.open(name, address, protocol, port, process, "v6only" not in rest)
            case ["closes", where]:
                self.cluster.close(name, self.socket(name, *endpoint(where)).cookie)
            case ["crashes"]:
                self.cluster.crash(name)
            case ["drains"]:
                self.cluster.drain(name)
            case ["loses-records"]:
                self.cluster.lose_records(name)
            case ["reconciles"]:
                self.cluster.reconcile(name)
            case ["claims", vip]:
                assert self.cluster.claim(name, ip_address(vip)) is not None
            case ["binds", where, "as", letter]:
                self.bind(name, where, letter)
            case _:
                raise ValueError(f"not a story: {name} {' '.join(words)}")

    def bind(self, name: str, where: str, letter: str) -> None:
        vip, protocol, _ = endpoint(where)
        given = self.cluster.bind_zero(name, vip, protocol)
        assert (given is None) == (letter == "-")
        if given is not None:
            self.letters[given.port] = letter

    def socket(self, name: str, address: Address, protocol: Protocol, port: int) -> Socket:
        return min(
            (
                s
                for s in self.cluster.machines[name].sockets.values()
                if (s.address, s.protocol, s.port) == (address, protocol, port)
            ),
            key=lambda s: s.cookie,
        )

    def compare(self, vip: Address, rows: list[str]) -> None:
        table = self.cluster.table(vip)
        listened = self.cluster.listeners[vip].keys()
        shown = {key: r for key, r in table.items() if key in listened}
        assert sorted(self.row(key, r) for key, r in shown.items()) == sorted(rows)
        for key, found in table.items():
            assert self.cluster.reach(vip, key) == hosts_of(found)
        for key in listened - table.keys():
            assert not self.cluster.reach(vip, key)

    def row(self, key: PortKey, found: Route) -> str:
        protocol, port = key
        head = f"{protocol.word} {self.letters.get(port, port)}"
        if isinstance(found, Distributed):
            return " ".join([head, "distributed", *(f"{t.host}:{t.weight}" for t in found.targets)])
        return f"{head} unique {found.host}"


def definition(vip: str, ports: str, rest: list[str]) -> Definition:
    method = next((Method(w) for w in rest if w in ("hash", "round-robin")), Method.HASH)
    hosts = next((frozenset(w.split(",")) for w in rest if w not in ("hash", "round-robin")), None)
    return Definition(ip_address(vip), parse_ports(ports), method, hosts)


def endpoint(text: str) -> tuple[Address, Protocol, int]:
    """`192.0.2.10:80/tcp`, `[::]:80/tcp`."""
    address, _, port = text.partition("/")[0].rpartition(":")
    protocol = Protocol.parse(text.partition("/")[2])
    return ip_address(address.strip("[]")), protocol, int(port)


def hosts_of(found: Route) -> set[str]:
    if isinstance(found, Distributed):
        return {t.host for t in found.targets}
    return {found.host}
