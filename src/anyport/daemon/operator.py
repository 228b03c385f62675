# SPDX-License-Identifier: Apache-2.0
"""The operator's verbs: what they ask for is checked, written, and waited for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

from anyport.agent.definitions import present_distributor
from anyport.daemon.eventually import eventually
from anyport.daemon.wish import Wish
from anyport.decide.definitions import validate
from anyport.errors import AnyportError, Conflict, RegistryRefused, UsageError
from anyport.kernel import neighbours, netlink
from anyport.kernel.netlink import Interface
from anyport.model import Definition
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.base import Delete, Entry, Put, Registry, Unchanged, Write
from anyport.registry.keys import DefinitionKey
from anyport.registry.mirror import Mirror


class Operator:
    """Adds, changes and deletes definitions."""

    def __init__(self, registry: Registry, mirror: Mirror, interface: Interface) -> None:
        self._registry = registry
        self._mirror = mirror
        self._interface = interface

    async def add(self, wish: Wish) -> str | None:
        """None: it holds. A line: it is stored, but does not hold yet, and why."""
        if wish.vip is None:
            raise UsageError("a VIP is wanted: the address to add")
        vip = parse_vip(wish.vip)
        definition = wish.applied(Definition(vip))
        self._validate(definition)
        if vip not in self._mirror.cluster.definitions:
            await self._refuse_if_taken(vip)
        key = str(DefinitionKey(vip))
        try:
            revision = await self._write([Put(key, values.encode(definition))], [Unchanged(key, 0)])
        except Conflict:
            raise UsageError(f"vip {vip} exists: change it with `vip set`") from None
        return await self._published(definition, revision)

    async def change(self, vip: Address, wish: Wish) -> str | None:
        """Writes nothing if it is so already: no publication would follow, to be waited for."""
        entry = await self._entry(vip)
        stored = _stored(vip, entry)
        definition = wish.applied(stored)
        self._validate(definition)
        revision = entry.mod_revision
        if definition != stored:
            revision = await self._rewrite(entry, definition)
        return await self._published(definition, revision)

    async def _rewrite(self, entry: Entry, definition: Definition) -> int:
        try:
            return await self._write(
                [Put(entry.key, values.encode(definition))],
                [Unchanged(entry.key, entry.mod_revision)],
            )
        except Conflict:
            raise AnyportError(
                f"vip {definition.vip} was changed by somebody else just now; again"
            ) from None

    async def delete(self, vip: Address) -> str | None:
        if await self._find(vip) is None:
            await self._say_again(vip)
        revision = await self._write([Delete(str(DefinitionKey(vip)))])

        def gone() -> bool:
            cluster = self._mirror.cluster
            return cluster.revision >= revision and present_distributor(cluster, vip) is None

        if await eventually(self._mirror, gone):
            return None
        return f"vip {vip} is deleted; its distributor has not withdrawn it yet"

    def _validate(self, definition: Definition) -> None:
        cluster = self._mirror.cluster
        others = [d for vip, d in cluster.definitions.items() if vip != definition.vip]
        validate(definition, others, cluster.hosts)

    async def _refuse_if_taken(self, vip: Address) -> None:
        """A second machine with an address cuts off the first, and nobody sees why."""
        owner = await netlink.address_owner(vip)
        if owner not in (None, "lo"):
            raise UsageError(f"VIP {vip}: already an address of {owner} here")
        for network in self._interface.networks:
            if vip in (network.network_address, network.broadcast_address):
                raise UsageError(f"VIP {vip}: the network's own or broadcast address in {network}")
        mac = await neighbours.probe(vip, self._interface)
        if mac is not None and mac not in self._macs_of_distributors(vip):
            raise UsageError(
                f"VIP {vip}: a machine on the LAN has it (MAC {mac.hex(':')});"
                " give an address that nobody has"
            )

    def _macs_of_distributors(self, vip: Address) -> set[bytes]:
        """It may be in force although this host knows no definition: the store was emptied."""
        cluster = self._mirror.cluster
        hosts = (cluster.hosts.get(host) for of, host in cluster.distributing if of == vip)
        return {host.mac for host in hosts if host is not None}

    async def _find(self, vip: Address) -> Entry | None:
        key = str(DefinitionKey(vip))
        entries = (await self._registry.list(key)).entries
        return next((entry for entry in entries if entry.key == key), None)

    async def _entry(self, vip: Address) -> Entry:
        entry = await self._find(vip)
        if entry is None:
            self._in_force(vip)
            raise AnyportError(
                f"vip {vip} is in force, but went with a store that is gone: "
                f"`anyport vip add {vip}` says it again"
            )
        return entry

    async def _say_again(self, vip: Address) -> None:
        """What went with its store, before it is deleted: of what is not there no host would hear
        that it goes."""
        put = Put(str(DefinitionKey(vip)), values.encode(self._in_force(vip)))
        with suppress(Conflict):
            await self._write([put], [Unchanged(put.key, 0)])

    def _in_force(self, vip: Address) -> Definition:
        known = self._mirror.cluster.definitions
        if vip not in known:
            names = ", ".join(map(str, known)) or "none"
            raise UsageError(f"vip {vip} does not exist; those that do: {names}")
        return known[vip]

    async def _write(self, writes: Sequence[Write], require: Sequence[Unchanged] = ()) -> int:
        return await write(self._registry, writes, require, what="write definitions")

    async def _published(self, definition: Definition, revision: int) -> str | None:
        def holds() -> bool:
            distributing = present_distributor(self._mirror.cluster, definition.vip)
            return (
                self._mirror.cluster.revision >= revision
                and distributing is not None
                and distributing.definition == definition
            )

        if await eventually(self._mirror, holds):
            return None
        return f"vip {definition.vip} is stored, but no candidate distributes it yet"


def _stored(vip: Address, entry: Entry) -> Definition:
    try:
        stored = values.decode(DefinitionKey(vip), entry.value, entry.create_revision)
    except ValueError as error:
        raise AnyportError(
            f"VIP {vip}: what the registry has at {entry.key} is unreadable ({error});"
            " `anyport vip delete` it, then add it"
        ) from None
    assert isinstance(stored, Definition)  # what a DefinitionKey decodes to
    return stored


async def write(
    registry: Registry, writes: Sequence[Write], require: Sequence[Unchanged] = (), *, what: str
) -> int:
    """What is the operator's, as Registry.write; refused, an AnyportError: who may do `what`."""
    try:
        return await registry.write(writes, require)
    except RegistryRefused:
        raise AnyportError(
            f"etcd does not let this host {what}: its certificate has no operator role; "
            "ask a host that has it, or see `anyport registry init --operator`"
        ) from None


def parse_vip(text: object) -> Address:
    """Raises UsageError. With a scope (fd00::1%eth0) it would be one host's only."""
    try:
        if "%" not in str(text):
            return ip_address(str(text))
    except ValueError:
        pass
    raise UsageError(f"vip {text!r}: an IP address is wanted")
