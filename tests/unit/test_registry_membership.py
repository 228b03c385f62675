# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anyport.errors import AnyportError
from anyport.model import Cluster, Host, HostState
from anyport.registry.membership import Membership
from anyport.registry.memory import MemoryRegistry, MemoryStore
from anyport.registry.publisher import Publisher

ADDRESS = ip_address("192.0.2.1")


def member(store: MemoryStore, state: Path, host: str = "a") -> Membership:
    registry = MemoryRegistry(store)
    return Membership(registry, Publisher(registry), state, host, 60)


def joined(member: Membership, host: str = "a") -> Membership:
    try:
        asyncio.run(member.join(lambda instance: Host(host, ADDRESS, instance=instance)))
    finally:
        member.close()
    return member


def test_a_restarted_daemon_resumes_its_lease(tmp_path: Path) -> None:
    store = MemoryStore()
    first = joined(member(store, tmp_path))
    again = joined(member(store, tmp_path))
    assert (again.lease, again.instance) == (first.lease, first.instance)


def test_the_same_state_under_another_name_is_another_member(tmp_path: Path) -> None:
    store = MemoryStore()
    first = joined(member(store, tmp_path))
    renamed = joined(member(store, tmp_path, "b"), "b")
    assert renamed.lease != first.lease
    assert renamed.instance != first.instance


@pytest.mark.parametrize("machine", ["another machine's", None])
def test_the_state_of_another_machine_is_not_resumed(tmp_path: Path, machine: str | None) -> None:
    store = MemoryStore()
    joined(member(store, tmp_path))
    file = tmp_path / "membership.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"machine": machine}))
    with pytest.raises(AnyportError, match="host name 'a' is taken"):
        joined(member(store, tmp_path))


def test_a_drained_member_is_one_still(tmp_path: Path) -> None:
    """The registry shows its state as the operator wishes it, not as it says."""
    me = joined(member(MemoryStore(), tmp_path))
    said = Host("a", ADDRESS, instance=me.instance)
    for seen in (said, replace(said, state=HostState.DRAINING)):
        assert me.is_seen_in(Cluster(1, {}, {"a": seen}, {}, {}, {}, {}))
    assert not me.is_seen_in(Cluster(1, {}, {"a": replace(said, instance="b")}, {}, {}, {}, {}))


def test_a_stop_leaves_what_was_said_for_a_whole_lease(tmp_path: Path) -> None:
    store = MemoryStore()
    me = joined(member(store, tmp_path))
    asyncio.run(me.part())
    listing = asyncio.run(MemoryRegistry(store).list("/anyport/v1/hosts/a/self"))
    assert [entry.lease for entry in listing.entries] == [me.lease]
