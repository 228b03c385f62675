# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from anyport.decide.drains import is_routed, known_hosts, only_target, orphaned
from anyport.model import (
    Candidacy,
    Claim,
    Cluster,
    Definition,
    Distributing,
    Drain,
    Host,
    HostState,
    Listener,
    PortBlock,
    PortKey,
    PortSet,
    Protocol,
)

VIP, OTHER_VIP = ip_address("192.0.2.10"), ip_address("192.0.2.11")
TCP80, TCP81, UDP53 = (Protocol.TCP, 80), (Protocol.TCP, 81), (Protocol.UDP, 53)
BLOCK = PortBlock(VIP, 40000, 40063)
UNIQUE: PortKey = (Protocol.TCP, 40001)


def cluster(
    candidates: str = "",
    drained: str = "",
    listening: dict[PortKey, str] | None = None,
    claiming: Iterable[str] = (),
    definitions: Iterable[Definition] = (Definition(VIP),),
) -> Cluster:
    """Hosts a, b and c; of VIP: its candidates, and who listens on each port."""
    hosts = {name: Host(name, ip_address("10.0.0.1")) for name in "abc"}
    for name in drained:
        hosts[name] = replace(hosts[name], state=HostState.DRAINING)
    listeners = {
        key: {name: Listener(VIP, *key, host=name) for name in names}
        for key, names in (listening or {}).items()
    }
    return Cluster(
        9,
        {definition.vip: definition for definition in definitions},
        hosts,
        {VIP: listeners},
        {(name, BLOCK): Claim(BLOCK, name, 3) for name in claiming},
        {(VIP, name): Candidacy(VIP, name, 0, 1) for name in candidates},
        {},
        {name: Drain(name, 1.5, 5) for name in drained},
    )


@pytest.mark.parametrize(
    ("candidates", "drained", "host", "vips"),
    [
        ("ab", "", "a", []),
        ("a", "", "a", [VIP]),
        ("ab", "b", "a", [VIP]),
        ("ab", "", "c", []),
        ("b", "", "a", []),
        ("", "", "a", []),
    ],
)
def test_vips_that_nobody_else_could_distribute(
    candidates: str, drained: str, host: str, vips: list[object]
) -> None:
    assert orphaned(host, cluster(candidates, drained)) == vips


def test_another_vip_s_candidates_are_no_help() -> None:
    found = cluster("a", definitions=[Definition(VIP), Definition(OTHER_VIP)])
    others = {**found.candidacies, (OTHER_VIP, "b"): Candidacy(OTHER_VIP, "b", 0, 2)}
    assert orphaned("a", replace(found, candidacies=others)) == [VIP]


def test_distributed_ports_that_nobody_else_serves() -> None:
    """Its unique ports stay its own; a drained host serves nobody's new connections."""
    found = cluster(
        drained="c", listening={TCP80: "a", TCP81: "ab", UDP53: "ac", UNIQUE: "a"}, claiming="a"
    )
    ports = [key for _, key in only_target("a", found, [Definition(VIP)])]
    assert ports == [TCP80, UDP53]
    enumerated = Definition(VIP, PortSet.parse("81,53"))
    assert [key for _, key in only_target("a", found, [enumerated])] == [UDP53]


@pytest.mark.parametrize(
    ("programmed", "routed"),
    [([], True), ([4], False), ([5], True), ([5, 4], False), ([6, 7], True)],
)
def test_routed_once_every_distributor_has_programmed_it(
    programmed: list[int], routed: bool
) -> None:
    published = [Distributing("b", 1, Definition(VIP), revision) for revision in programmed]
    assert is_routed(Drain("a", 0.0, 5), published) is routed


def test_hosts_that_are_away_are_known_too() -> None:
    named = Definition(OTHER_VIP, hosts=frozenset({"d"}))
    found = cluster(claiming=["e"], definitions=[Definition(VIP), named])
    assert known_hosts(found) == set("abcde")
    assert known_hosts(replace(found, drains={"f": Drain("f", 0.0)})) == set("abcdef")
