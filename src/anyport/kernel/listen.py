# SPDX-License-Identifier: Apache-2.0
"""listen.bpf.c from the side of Python: attached, told the definitions, read, and reconciled."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anyport.kernel import abi, listen_attach, loader, sock_diag
from anyport.kernel.definitions import Definitions, HostedDefinition
from anyport.kernel.libbpf import Link, Object, RingBuffer
from anyport.kernel.listen_events import (
    Closed,
    Event,
    Events,
    Exhausted,
    Freed,
    Handed,
    HandedPort,
    Opened,
    pack_socket,
    parse_event,
    unpack_handed,
    unpack_socket,
)
from anyport.kernel.pools import Pools
from anyport.kernel.sock_diag import Dumped
from anyport.kernel.trial import is_bindable
from anyport.model import Protocol, Socket
from anyport.model.definition import Address

__all__ = [
    "Closed",
    "Event",
    "Events",
    "Exhausted",
    "Freed",
    "Handed",
    "HandedPort",
    "HostedDefinition",
    "ListenKernel",
    "Opened",
]

_LOST = (abi.ListenCounter.EVENTS_LOST, abi.ListenCounter.SOCKETS_FULL)
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_BOUND_TO = struct.Struct("=16s8xHBB16x")  # struct listening_socket: what tells two lives apart

_Identity = tuple[
    int, bytes, int, int
]  # cookie, address, port, protocol: a socket can listen again


class ListenKernel:
    """The kernel programs of one host, and their maps.

    Whatever changes `sockets` is told in `events`, in order, changes by
    `reconcile` too. After a loss: `reconcile`, and take `sockets` for true.
    """

    def __init__(self, object_: Object, links: Mapping[str, Link], pins: Path) -> None:
        self._object = object_
        self._links = links
        self._pins = pins
        self._definitions = Definitions(object_.map("definitions"), object_.map("port_words"))
        self._sockets = object_.map("sockets")
        self._handed = object_.map("handed")
        self._settings = object_.map("settings")
        self._counters = object_.map("listen_counters")
        self._pools = Pools(object_.map("pools"))
        self._ring = RingBuffer(object_.map("events"))
        self._reconcile_program = object_.program("reconcile")
        self._lost = self._count_lost()

    @classmethod
    def attach(cls, cgroup: Path, pins: Path) -> ListenKernel:
        """Loads, or adopts from `pins`, all of it; for the calling thread's network namespace.

        `cgroup`: a cgroup2 directory whose processes are the host's. Raises KernelError.
        """
        loader.prepare_pins(pins)
        object_ = listen_attach.load(pins)
        return cls(object_, listen_attach.attach(object_, cgroup, pins), pins)

    def close(self) -> None:
        """Lets go; the kernel side stays and works on."""
        self._ring.close()
        self._pools.close()
        for link in self._links.values():
            link.close()
        self._object.close()

    def detach(self) -> None:
        """Ends the kernel side too: nothing is seen, handed out or refused any more."""
        self.close()
        listen_attach.detach(self._pins)

    # ---- events ----

    def fileno(self) -> int:
        """Readable while events wait."""
        return self._ring.fileno()

    def read(self) -> Events:
        """All events that wait; never blocks."""
        events = [parse_event(record) for record in self._ring.consume()]
        lost, self._lost = self._lost, self._count_lost()
        return Events(events, lost=lost != self._lost)

    def counters(self) -> dict[str, int]:
        """Since the maps were made; the names are ListenCounter's, in lower case."""
        return {counter.name.lower(): self._count(counter) for counter in abi.ListenCounter}

    # ---- definitions ----

    def set_definitions(self, definitions: Sequence[HostedDefinition]) -> None:
        """Makes these all the definitions there are; follow it with `reconcile`.

        Between two of its writes each port is treated as before or as after.
        Raises KernelError, with nothing written, for more than MAX_VIPS.
        """
        for index in self._definitions.program(definitions):
            self._pools.drop(index)

    def vips(self) -> list[Address]:
        """Those with a definition; after a restart, those adopted."""
        return self._definitions.vips()

    # ---- sockets ----

    def sockets(self) -> dict[int, Socket]:
        """What listens now, as far as some definition may concern it, by cookie."""
        keys, values = self._sockets.dump()
        return {
            cookie: unpack_socket(cookie, abi.ListeningSocket.from_buffer_copy(value))
            for (cookie,), value in zip(
                _U64.iter_unpack(keys), _split(values, self._sockets.value_size), strict=True
            )
        }

    def cookies(self) -> set[int]:
        """Of `sockets`, in a tenth of its time."""
        return {cookie for (cookie,) in _U64.iter_unpack(self._sockets.dump()[0])}

    def opened(self, socket: Socket) -> bool:
        """As if the kernel had seen it listen. True: it is recorded, and was not."""
        request = abi.ReconcileRequest(
            cookie=socket.cookie,
            operation=abi.ReconcileOperation.OPENED,
            socket=pack_socket(socket),
        )
        return self._apply(request) == abi.ReconcileResult.RECORDED

    def closed(self, cookie: int) -> bool:
        """As if the kernel had seen it stop. True: it was recorded."""
        operation = abi.ReconcileOperation.CLOSED
        request = abi.ReconcileRequest(cookie=cookie, operation=operation)
        return self._apply(request) == abi.ReconcileResult.REMOVED

    def adopt(self) -> None:
        """Recorded listeners that lack it get the flag that makes the kernel tell of their closing.

        Without it (before Linux 6.12 or so) close() is still told of, but
        shutdown() on a listener older than anyport waits for `reconcile`.
        """
        listen_attach.iterate(self._object, "adopt", size=1)

    def reconcile(self) -> tuple[list[Socket], list[int]]:
        """Makes `sockets` what a dump says: the sockets it added, the cookies it removed.

        Right while sockets come and go: whoever opens after the first look at
        `sockets` is not up for closing, whoever was added here is looked for
        again, and one dump that misses a socket does not close it.
        """
        known = self._recorded()
        there = self._dump()
        listening = _cookies(there)
        elsewhere = self._close({i for i in known - there.keys() if i[0] in listening})
        opened = self._open_new(known, there)
        suspects = {i for i in known if i[0] not in elsewhere}
        suspects |= {(s.cookie, *_bound_to(s)) for s in opened}
        missing = suspects - there.keys()
        if missing or opened:
            missing = suspects - self._dump().keys()
        if missing:
            missing -= self._dump().keys()
        return opened, [*elsewhere, *self._close(missing)]

    # ---- block ports ----

    def fill(self, vip: Address, protocol: Protocol, ports: Iterable[int]) -> None:
        """Ports to hand out: in own blocks, free (`bindable`), rested, and not in the pool."""
        self._pools.fill(self._definitions.index(vip), protocol, ports)

    def pool(self, vip: Address, protocol: Protocol) -> list[int]:
        """The ports that wait to be handed out; see Pools.ports for what it costs."""
        return self._pools.ports(self._definitions.index(vip), protocol)

    def handed(self) -> list[HandedPort]:
        return [
            unpack_handed(_U64.unpack(key)[0], abi.HandedPort.from_buffer_copy(value))
            for key, value in self._handed.items()
        ]

    def freed(self, cookie: int) -> bool:
        """As if the kernel had seen the socket go. True: a port was handed to it."""
        operation = abi.ReconcileOperation.FREED
        request = abi.ReconcileRequest(cookie=cookie, operation=operation)
        return self._apply(request) == abi.ReconcileResult.REMOVED

    def set_deadline(self, boottime_ns: int) -> None:
        """From then on (CLOCK_BOOTTIME) bind(VIP, 0) gets EADDRINUSE. 0, as at first: always."""
        self._settings.update(_U32.pack(0), bytes(abi.Settings(handout_deadline_ns=boottime_ns)))

    def bindable(self, vip: Address, protocol: Protocol, port: int) -> bool:
        """Whether no socket in any state is left that keeps VIP:port.

        The programs neither refuse nor see this trial. Raises KernelError if
        something else than a socket is in the way.
        """
        return is_bindable(vip, protocol, port)

    # ---- within ----

    def _count(self, counter: abi.ListenCounter) -> int:
        values = self._counters.lookup_percpu(_U32.pack(counter))
        return sum(_U64.unpack(value)[0] for value in values)

    def _count_lost(self) -> int:
        return sum(self._count(counter) for counter in _LOST)

    def _apply(self, request: abi.ReconcileRequest) -> int:
        return self._reconcile_program.test_run(ctx_in=bytes(request))[0]

    def _recorded(self) -> set[_Identity]:
        keys, values = self._sockets.dump()
        entries = zip(_U64.iter_unpack(keys), _BOUND_TO.iter_unpack(values), strict=True)
        return {
            (cookie, address, port, protocol) for (cookie,), (address, port, protocol, _) in entries
        }

    def _dump(self) -> dict[_Identity, Dumped]:
        """The sockets that listen and that some definition may concern."""
        concern = self._definitions.concern
        return {
            (d.cookie, d.address, d.port, int(d.protocol)): d
            for d in sock_diag.dump()
            if concern(d.bound_to, d.v6only, d.protocol, d.port)
        }

    def _close(self, identities: set[_Identity]) -> set[int]:
        """Closes those, but none that listens again meanwhile, elsewhere; their cookies."""
        gone = identities & self._recorded() if identities else set()
        return {cookie for cookie in _cookies(gone) if self.closed(cookie)}

    def _open_new(self, known: set[_Identity], there: Mapping[_Identity, Dumped]) -> list[Socket]:
        new = [there[identity] for identity in there.keys() - known]
        if not new:
            return []
        written = listen_attach.iterate(self._object, "explicit_udp")
        explicit = {cookie for (cookie,) in _U64.iter_unpack(written)}
        new = [d for d in new if d.protocol is Protocol.TCP or d.cookie in explicit]
        processes = sock_diag.processes_by_inode(d.inode for d in new)
        found = [d.as_socket(*processes.get(d.inode, (0, ""))) for d in new]
        opened = [socket for socket in found if self.opened(socket)]
        if any(socket.protocol is Protocol.TCP for socket in opened):
            self.adopt()
        return opened


def _bound_to(socket: Socket) -> tuple[bytes, int, int]:
    return abi.pack_address(socket.address), socket.port, int(socket.protocol)


def _cookies(identities: Iterable[_Identity]) -> set[int]:
    return {identity[0] for identity in identities}


def _split(data: bytes, size: int) -> Iterable[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))
