# SPDX-License-Identifier: Apache-2.0
"""`anyport status`: is this host healthy, and if not, why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container
from typing import Any

from anyport import __version__
from anyport.agent.agent import Agent
from anyport.agent.definitions import present_distributor
from anyport.config import Config
from anyport.daemon.counters import CounterRows
from anyport.daemon.rows import Rows, utc
from anyport.decide.hook import Hook
from anyport.distributor.distributor import Distributor
from anyport.distributor.hops import path
from anyport.errors import KernelError
from anyport.kernel import netlink
from anyport.kernel.distribute import DistributorKernel
from anyport.model.definition import Address
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher


def absence(host: str, members: Container[str]) -> str | None:
    """What to say of a host that the others do not see; None: they do."""
    if host in members:
        return None
    return "registry: this host is not a member, as its lease has ended; it joins again by itself"


class Status:
    def __init__(
        self,
        config: Config,
        mirror: Mirror,
        publisher: Publisher,
        agent: Agent,
        distributor: Distributor,
        packets: DistributorKernel,
        hook: Hook,
        counters: CounterRows,
        rows: Rows,
    ) -> None:
        self._hook = hook
        self._config = config
        self._versions = config.host.versions
        self._mirror = mirror
        self._publisher = publisher
        self._agent = agent
        self._distributor = distributor
        self._packets = packets
        self._counters = counters
        self._rows = rows

    async def row(self) -> dict[str, Any]:
        problems = [*self._problems(), *await self._kernel_problems()]
        cluster = self._mirror.cluster
        vips = [self._vip(vip) for vip in cluster.definitions]
        return {
            "healthy": not problems,
            "ready": all(vip["ready"] for vip in vips),
            "problems": problems,
            "host": self._agent.host,
            "version": __version__,
            "hook": {"name": self._hook.name, "why": self._hook.why},
            "registry": {
                "endpoints": list(self._config.registry.endpoints) or "own etcd",
                "connected": self._mirror.connected,
                "stale_seconds": self._stale_seconds(),
                "stale_since": self._stale_since(),
                "revision": cluster.revision,
            },
            "hosts": len(cluster.hosts),
            "draining": self._rows.drains(),
            "listeners": len(self._agent.listeners),
            "programmed": self._distributor.is_up_to_date,
            "packets": self._counters.summary(),
            "vips": vips,
            "paths": [
                {"host": name} | {f"ipv{v}": f"{path(c)}: {c.why}" for v, c in chosen.items()}
                for name, chosen in sorted(self._distributor.choices.items())
            ],
            "tunnel_overhead": self._agent.tunnel_end.overhead,
        }

    def _vip(self, vip: Address) -> dict[str, Any]:
        definition = self._mirror.cluster.definitions[vip]
        distributing = present_distributor(self._mirror.cluster, vip)
        concerned = definition.allows(self._agent.host) and vip.version in self._versions
        holds = distributing is not None and distributing.definition == definition
        free = self._agent.pools.free(vip)
        why_not = self._distributor.why_no_candidate(definition)
        return {
            "vip": str(vip),
            "distributor": distributing.host if distributing else None,
            "distributing_here": vip in self._distributor.offices,
            "candidate": why_not is None,
            "no_candidate_because": why_not,
            "free_ports": free,
            "ready": holds and (not concerned or self._agent.is_ready(vip)),
        }

    def _stale_seconds(self) -> float:
        since = self._mirror.stale_since
        return 0.0 if since is None else round(asyncio.get_running_loop().time() - since, 1)

    def _stale_since(self) -> str | None:
        """UTC; None: what is shown is current."""
        if self._mirror.stale_since is None:
            return None
        return utc(time.time() - asyncio.get_running_loop().time() + self._mirror.stale_since)

    def _problems(self) -> list[str]:
        absent = absence(self._agent.host, self._mirror.cluster.hosts)
        return [*self._known_problems(), *([absent] if absent else [])]

    def _known_problems(self) -> list[str]:
        problems = [
            f"{what}: {why}"
            for source in (
                self._agent.problems,
                self._distributor.problems,
                self._mirror.unreadable.problems(),
            )
            for what, why in source.items()
        ]
        if not self._mirror.connected:
            problems.append(
                f"registry: no answer for {self._stale_seconds():.0f} s, "
                f"since {self._stale_since()}; packets go on from the last known state"
            )
        problems += [
            f"host {host}: its heartbeat stands still, though its lease is kept alive; "
            "taken for gone"
            for host in sorted(self._mirror.silent)
        ]
        if self._mirror.settling:
            problems.append(
                "registry: another store than before; what is in force stays, "
                "and hosts say again what they have"
            )
        if self._mirror.emptied:
            problems.append(
                "registry: the store was emptied; the definitions in force are not in it: "
                "`anyport vip add` them again"
            )
        problems += [
            f"host {host}: drained no more, as the store that said so is gone: `anyport drain` it "
            "again, and `anyport resume` it if it is not to be"
            for host in sorted(self._mirror.lost_drains)
        ]
        if self._publisher.failing_since is not None:
            problems.append("registry: what this host says cannot be written; retrying")
        for vip, definition in self._mirror.cluster.definitions.items():
            if present_distributor(self._mirror.cluster, vip) is None:
                problems.append(f"vip {vip}: no host distributes it")
            if definition.allows(self._agent.host) and vip.version not in self._versions:
                problems.append(
                    f"vip {vip}: this host takes no part, as it has no IPv{vip.version} address: "
                    + ("set host.address6" if vip.version == 6 else "set host.address to one")
                )
        return problems

    async def _kernel_problems(self) -> list[str]:
        """What somebody else took away, as the kernel has it now."""
        host = self._config.host
        try:
            lan = await netlink.interface(host.interface)
            on_lo = (await netlink.interface("lo")).addresses
        except KernelError as error:
            return [str(error)]
        told = self._agent.problems
        absent = [v for v in self._agent.hosted if v not in on_lo and f"vip {v}" not in told]
        checks = [
            (lan.up, f"interface {lan.name}: down, or without a carrier"),
            *(
                (address in lan.addresses, f"interface {lan.name}: it has lost {address}")
                for address in host.addresses
            ),
            (
                self._hook.name == "tc" or not await netlink.has_vlans(lan.index),
                f"interface {lan.name}: it has VLANs, whose packets XDP may take for its own; "
                'set distributor.hook = "tc", or restart anyport if that is "auto"',
            ),
            (
                self._packets.attached() and self._agent.tunnel_end.attached(),
                f"interface {lan.name}: the packet program is not attached; restart anyport",
            ),
            *((False, f"vip {vip}: not on lo; it comes back within a minute") for vip in absent),
        ]
        return [problem for holds, problem in checks if not holds]
