# SPDX-License-Identifier: Apache-2.0
"""The operator's verbs: what they ask for is checked, written, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from anyport.agent.definitions import present_distributor
from anyport.decide.definitions import validate
from anyport.errors import AnyportError, Conflict, UsageError
from anyport.kernel import netlink
from anyport.model import Definition, Method
from anyport.model.definition import MAX_UDP_IDLE_SECONDS, Address, parse_ports
from anyport.registry import values
from anyport.registry.base import Delete, Entry, Put, Registry, Unchanged
from anyport.registry.keys import DefinitionKey
from anyport.registry.mirror import Mirror

WAIT_SECONDS = 5.0


class Operator:
    """Adds, changes and deletes definitions."""

    def __init__(self, registry: Registry, mirror: Mirror) -> None:
        self._registry = registry
        self._mirror = mirror

    async def add(self, wish: dict[str, Any]) -> str | None:
        """None: it holds. A line: it is stored, but does not hold yet, and why."""
        if "vip" not in wish:
            raise UsageError("a VIP is wanted: the address to add")
        vip = parse_vip(wish["vip"])
        definition = _changed(Definition(vip), wish)
        self._validate(definition)
        owner = await netlink.address_owner(vip)
        if owner not in (None, "lo"):
            raise UsageError(f"vip {vip} is already an address of {owner} here")
        key = str(DefinitionKey(vip))
        try:
            revision = await self._registry.write(
                [Put(key, values.encode(definition))], [Unchanged(key, 0)]
            )
        except Conflict:
            raise UsageError(f"vip {vip} exists: change it with `vip set`") from None
        return await self._published(definition, revision)

    async def change(self, vip: Address, wish: dict[str, Any]) -> str | None:
        entry = await self._entry(vip)
        stored = values.decode(DefinitionKey(vip), entry.value, entry.create_revision)
        assert isinstance(stored, Definition)  # what a DefinitionKey decodes to
        definition = _changed(stored, wish)
        self._validate(definition)
        try:
            revision = await self._registry.write(
                [Put(entry.key, values.encode(definition))],
                [Unchanged(entry.key, entry.mod_revision)],
            )
        except Conflict:
            raise AnyportError(f"vip {vip} was changed by somebody else just now; again") from None
        return await self._published(definition, revision)

    async def delete(self, vip: Address) -> str | None:
        entry = await self._entry(vip)
        revision = await self._registry.write([Delete(entry.key)])

        def gone() -> bool:
            cluster = self._mirror.cluster
            return cluster.revision >= revision and present_distributor(cluster, vip) is None

        if await self._eventually(gone):
            return None
        return f"vip {vip} is deleted; its distributor has not withdrawn it yet"

    def _validate(self, definition: Definition) -> None:
        cluster = self._mirror.cluster
        others = [d for vip, d in cluster.definitions.items() if vip != definition.vip]
        validate(definition, others, cluster.hosts)
        for host in cluster.hosts.values():
            if host.address == definition.vip:
                raise UsageError(f"vip {definition.vip} is the address of host {host.name}")

    async def _entry(self, vip: Address) -> Entry:
        key = str(DefinitionKey(vip))
        for entry in (await self._registry.list(key)).entries:
            if entry.key == key:
                return entry
        known = ", ".join(str(v) for v in self._mirror.cluster.definitions) or "none"
        raise UsageError(f"vip {vip} does not exist; those that do: {known}")

    async def _published(self, definition: Definition, revision: int) -> str | None:
        def holds() -> bool:
            distributing = present_distributor(self._mirror.cluster, definition.vip)
            return (
                self._mirror.cluster.revision >= revision
                and distributing is not None
                and distributing.definition == definition
            )

        if await self._eventually(holds):
            return None
        return f"vip {definition.vip} is stored, but no eligible host distributes it yet"

    async def _eventually(self, holds: Callable[[], bool]) -> bool:
        subscription = self._mirror.subscribe()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not holds():
                    await subscription.changed()
        except TimeoutError:
            return holds()
        finally:
            self._mirror.unsubscribe(subscription)
        return True


def parse_vip(text: object) -> Address:
    try:
        return ip_address(str(text))
    except ValueError:
        raise UsageError(f"vip {text!r}: an IP address is wanted") from None


def _changed(definition: Definition, wish: dict[str, Any]) -> Definition:
    """The definition with the fields that `wish` gives. Raises UsageError."""
    unknown = wish.keys() - {"vip", "ports", "method", "hosts", "udp_idle"}
    if unknown:
        raise UsageError(
            f"unknown field {min(unknown)!r}: allowed are ports, method, hosts, udp_idle"
        )
    try:
        if wish.get("ports") is not None:
            definition = replace(definition, ports=parse_ports(str(wish["ports"])))
        if wish.get("method") is not None:
            definition = replace(definition, method=Method(wish["method"]))
    except ValueError as error:
        allowed = "" if "ports" in str(error) else "; allowed are hash and round-robin"
        raise UsageError(f"{error}{allowed}") from None
    if wish.get("udp_idle") is not None:
        definition = replace(definition, udp_idle=_udp_idle(wish["udp_idle"]))
    hosts = wish.get("hosts")
    if hosts is None:
        return definition
    return replace(definition, hosts=None if hosts == "all" else frozenset(map(str, hosts)))


def _udp_idle(seconds: object) -> int:
    if type(seconds) is not int or not 1 <= seconds <= MAX_UDP_IDLE_SECONDS:
        raise UsageError(f"udp_idle {seconds!r}: allowed are 1-{MAX_UDP_IDLE_SECONDS} (seconds)")
    return seconds
