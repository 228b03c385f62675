# SPDX-License-Identifier: Apache-2.0
"""The life of `anyport run`: check, join, adopt, run, leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from anyport import __version__
from anyport.agent.agent import Agent
from anyport.agent.tunnel_end import TunnelEnd
from anyport.config import Config, load
from anyport.daemon import machine, packet_program, power, state
from anyport.daemon.api import Server, application
from anyport.daemon.counters import CounterRows
from anyport.daemon.drains import Drains
from anyport.daemon.operator import Operator
from anyport.daemon.rows import Rows
from anyport.daemon.status import Status
from anyport.distributor.distributor import Distributor
from anyport.errors import AnyportError, RegistryError, RegistryRefused, single_cause
from anyport.kernel import distribute, inner_maps, listen_attach, loader, target
from anyport.kernel.features import cgroup2_mount, require_kernel
from anyport.kernel.listen import ListenKernel
from anyport.kernel.netlink import Interface
from anyport.kernel.own_connections import OwnConnections
from anyport.kernel.routes import Routes
from anyport.kernel.sysctl import set_sysctls
from anyport.kernel.target import TargetKernel
from anyport.metrics import collector
from anyport.model import Host
from anyport.registry import embedded
from anyport.registry.base import Registry
from anyport.registry.etcd import EtcdRegistry
from anyport.registry.membership import Membership
from anyport.registry.mirror import Mirror
from anyport.registry.publisher import Publisher

_T = TypeVar("_T")

log = logging.getLogger("anyport")

# Well below systemd's TimeoutStopSec (90 s): a successor needs less than one.
LEAVE_SECONDS = 3.0
PART_SECONDS = 1.0

# The same on all distributors of a cluster, so that a takeover hashes alike. No
# secret: who aims flows at one target gains no more than by sending it as many.
HASH_KEY = 0x616E79706F72742D616E79706F72742D


def run(path: Path) -> int:
    """`anyport run`: returns the exit status. Raises AnyportError before anything is touched."""
    config = load(path)
    if os.geteuid() != 0:
        raise AnyportError("anyport run loads programs into the kernel: run it as root")
    os.umask(0o077)  # whatever the daemon writes is root's alone
    logging.basicConfig(
        level=config.daemon.log_level.upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(_main(config, path))
    return 0


async def _main(config: Config, path: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    interface = await machine.check(config, path)
    require_kernel()
    state.private_directory(Path(config.daemon.state))
    held = state.lock(Path(config.daemon.state))
    power.reduce(Path(config.daemon.pins))
    try:
        await _serve(config, interface, stop)
    except _Stopped:
        log.info("told to stop before etcd had told what there is")
    finally:
        os.close(held)


async def _serve(config: Config, interface: Interface, stop: asyncio.Event) -> None:
    async with _registry(config, stop) as registry:
        daemon = Daemon(config, interface, registry)
        try:
            await daemon.run(stop)
        finally:
            daemon.close()


class _Stopped(Exception):
    """The daemon is to end while it waits for etcd: it has nothing to hand on yet."""


async def _unless(stop: asyncio.Event, step: Coroutine[Any, Any, _T]) -> _T:
    """What `step` returns. Raises _Stopped if `stop` comes first: `step` is cancelled then."""
    doing, stopping = asyncio.create_task(step), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise _Stopped
    finally:
        for task in (doing, stopping):
            task.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)


@contextlib.asynccontextmanager
async def _registry(config: Config, stop: asyncio.Event) -> AsyncIterator[Registry]:
    settings = config.registry
    endpoints = list(settings.endpoints) or await _unless(
        stop, embedded.start_or_adopt(Path(settings.data))
    )
    registry = EtcdRegistry(
        endpoints,
        ca=Path(settings.ca) if settings.ca else None,
        cert=Path(settings.cert) if settings.cert else None,
        key=Path(settings.key) if settings.key else None,
    )
    try:
        yield registry
    finally:
        await registry.close()


class Daemon:
    """Both loops of one host, with what they share."""

    def __init__(self, config: Config, interface: Interface, registry: Registry) -> None:
        self._config = config
        self._interface = interface
        self._registry = registry
        self._publisher = Publisher(registry)
        self._mirror = Mirror(registry, reader=config.host.name)
        self._tasks: list[asyncio.Task[Any]] = []
        self._membership = Membership(
            registry,
            self._publisher,
            Path(config.daemon.state),
            config.host.name,
            config.registry.ttl,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, or until a part fails: then raises what it raised. Raises _Stopped if etcd
        has not told what there is by then; as after a kill, what this host said stands for a lease.
        """
        config = self._config
        server_socket = state.listen_unix(Path(config.daemon.socket))
        await _unless(stop, self._join())
        self._mirror.on_replaced = self._membership.lost
        self._mirror.on_own = self._publisher.heard
        self._spawn(self._membership.run())
        set_sysctls(config.host.interface, state.sysctls(config))
        pins = Path(config.daemon.pins)
        listen = ListenKernel.attach(self._cgroup(), pins)
        packets, hook = await packet_program.attach(config, self._interface, HASH_KEY)
        self._spawn(self._mirror.run())
        tunnels = TargetKernel.attach(self._interface.index, pins)
        loader.prune_links(pins, listen_attach.LINKS | distribute.LINKS | target.LINKS)
        own = OwnConnections()
        routes = Routes(self._interface.index)
        agent = Agent(
            config,
            listen,
            self._registry,
            self._mirror,
            self._publisher,
            self._membership,
            TunnelEnd(config.host.described(), tunnels, self._mirror, routes),
            own,
        )
        distributor = Distributor(
            config,
            packets,
            self._interface,
            routes,
            self._registry,
            self._mirror,
            self._publisher,
            self._membership,
            state.known_hosts(config),
        )
        await self._ready_or_failed(_unless(stop, self._mirror.caught_up(0)))
        await self._ready_or_failed(agent.start())
        await self._ready_or_failed(distributor.start())
        for task in (routes.run(), self._publisher.run(), agent.run(), distributor.run()):
            self._spawn(task)
        rows = Rows(self._mirror.cluster, agent, distributor)
        counters = CounterRows(packets, listen.counters, tunnels.counters, rows.host_of)
        status = Status(
            config, self._mirror, self._publisher, agent, distributor, packets, hook, counters, rows
        )
        metrics = collector(self._mirror, agent, distributor, listen, counters)
        operator = Operator(self._registry, self._mirror, self._interface)
        drains = Drains(self._registry, self._mirror)
        app = application(rows, counters, operator, drains, status.row, metrics)
        self._spawn(Server(app, server_socket).run_until_stopped())
        inner_maps.release()
        _tell_systemd("READY=1")
        log.info("anyport %s: host %s is a member", __version__, config.host.name)
        try:
            await self._until(stop)
            await self._leave(agent, distributor)
        finally:
            agent.close()
            await self._end_tasks()
            listen.close()
            packets.close()
            tunnels.close()
            own.close()

    async def _join(self) -> None:
        try:
            await self._membership.join(self._describe)
        except RegistryRefused as error:
            raise AnyportError(
                f"{error}: no role lets this certificate speak for host "
                f"{self._config.host.name!r}; see `anyport registry init`"
            ) from None

    def close(self) -> None:
        """Ends what is no task."""
        self._membership.close()

    def _spawn(self, task: Any) -> None:
        self._tasks.append(asyncio.create_task(task))

    async def _ready_or_failed(self, start: Any) -> None:
        starting = asyncio.create_task(start)
        await asyncio.wait([starting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        self._raise_failure()
        await starting

    async def _until(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        self._raise_failure()

    def _raise_failure(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise single_cause(error)

    async def _leave(self, agent: Agent, distributor: Distributor) -> None:
        """Hands the VIPs on; what else this host has said stands as long as its lease."""
        log.info("leaving")
        await _within(LEAVE_SECONDS, _hand_on(agent, distributor))
        await _within(PART_SECONDS, self._membership.part())

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _describe(self, instance: str) -> Host:
        host = self._config.host.described()
        return replace(host, since=time.time(), instance=instance, mac=self._interface.mac)

    def _cgroup(self) -> Path:
        """require_kernel() has seen that there is a cgroup2 mount."""
        return Path(self._config.daemon.cgroup or cgroup2_mount() or "")


async def _hand_on(agent: Agent, distributor: Distributor) -> None:
    """With the connections that this host has as a target."""
    await agent.answers.heard(await distributor.leave())


async def _within(seconds: float, step: Awaitable[None]) -> None:
    """A step of leaving: without it the next one, or the host's lease, does what it can."""
    with contextlib.suppress(RegistryError, TimeoutError):
        async with asyncio.timeout(seconds):
            await step


def _tell_systemd(state: str) -> None:
    """sd_notify(3), if the unit asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(state.encode(), address.replace("@", "\0", 1))
