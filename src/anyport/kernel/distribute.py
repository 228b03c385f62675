# SPDX-License-Identifier: Apache-2.0
"""The distributor's half of the kernel: distribute.bpf.c, its attachment and its maps."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from ctypes import sizeof
from ipaddress import IPv6Address
from pathlib import Path

from anyport.decide.rows import MAX_HOSTS, Family, Hop, HostRow, RouteRow, SelectionRow
from anyport.errors import KernelError
from anyport.kernel import abi, inner_maps, loader, traffic
from anyport.kernel.clsact import Filter
from anyport.kernel.connections import ConnectionRow, ConnectionTable, Entered, buckets, in_ticks
from anyport.kernel.counters import Count, Counters, packets_by_verdict
from anyport.kernel.libbpf import AttachType, Map, MapType, Object, Program
from anyport.kernel.vips import Vips
from anyport.model import PortKey, Protocol
from anyport.model.definition import UDP_IDLE_SECONDS, Address

_MAPS = (
    "vips",
    "fenced",
    "peers",
    "routes",
    "selections",
    "hosts",
    "learnt_mtus",
    "connections",
    "table_key",
    "fragments",
    "held_fragments",
    "counters",
)
LINKS = frozenset({"distribute", "distribute_xdp"})
_ROWS = len(Protocol) * abi.PORTS
_NOWHERE = IPv6Address(0)
_ROUTE = struct.Struct("=IIQ")  # struct route: ctypes would take 0.1 s for a port table


class DistributorKernel:
    """One interface's program and the maps it decides by; rows are those of bpf/abi.h.

    Each write takes effect with the next packet. Every method raises
    KernelError when the kernel refuses.
    """

    def __init__(
        self, loaded: Object, interface_index: int, pins: Path, in_xdp: bool = False
    ) -> None:
        self.program: Program = loaded.program("distribute")
        self.xdp_program = loaded.program("distribute_xdp") if in_xdp else None
        self._object = loaded
        self._interface_index = interface_index
        self._pins = pins
        self._maps = {name: loaded.map(name) for name in _MAPS}
        self._tables: dict[int, Map] = {}
        self.table = ConnectionTable(loaded)
        self._vips = Vips(self._maps["vips"])
        self._counters = Counters(self._maps["counters"])

    @classmethod
    def attach(
        cls,
        interface_index: int,
        pins: Path,
        connections: int,
        hash_key: int,
        in_xdp: bool = False,
    ) -> DistributorKernel:
        """Loads the program and attaches it at the interface's ingress.

        `in_xdp`: in its driver as well; KernelError if the driver has no XDP.

        Adopts what is pinned at `pins`: routes and connections go on, and no
        packet meets no program. The connection table has room for `connections`;
        one of another size is copied. `hash_key`: 128 bits; the same key
        hashes alike.
        """
        loader.prepare_pins(pins)
        with _resized(pins / "connections", buckets(connections)) as former:
            self = cls.load(interface_index, pins, connections, hash_key, former, in_xdp)
            self.table.adopt_former()
            self._attach()
            self.table.adopt_former()  # what came in between
        return self

    @classmethod
    def load(
        cls,
        interface_index: int,
        pins: Path | None,
        connections: int,
        hash_key: int,
        former: Map | None = None,
        in_xdp: bool = False,
    ) -> DistributorKernel:
        """Without attaching it; `pins` None: nothing outlives this process.

        `former`: a connection table, to be adopted.
        """
        loaded = Object.open(
            loader.object_path("distribute"),
            rodata={"hash_key": hash_key, "bucket_count": buckets(connections)},
            max_entries={"connections": buckets(connections)},
            pins=pins,
            pinned=_MAPS,
            reused={"former": former} if former else {},
            skip_programs=() if in_xdp else ("distribute_xdp",),
        )
        try:
            return cls(loaded.load(), interface_index, pins or Path(), in_xdp)
        except BaseException:
            loaded.close()
            raise

    def close(self) -> None:
        """Forgets the maps and the program; pinned and attached, they go on without us."""
        for table in self._tables.values():
            table.close()
        self._tables.clear()
        self._object.close()

    def detach(self) -> None:
        """No packet is distributed any more, and nothing is left behind."""
        loader.detach(self._xdp_pin)
        traffic.detach(self._interface_index, Filter.DISTRIBUTE, self._link_pin)
        loader.unpin(self._pins, _MAPS)

    def attached(self) -> bool:
        """Whether the program is still at the interface: another may have replaced that one."""
        in_xdp = self.xdp_program is None or (
            self._xdp_pin.exists() and loader.target_of(self._xdp_pin) == self._interface_index
        )
        return in_xdp and traffic.attached(self._interface_index, Filter.DISTRIBUTE, self._link_pin)

    # ---- VIPs ----

    def vips(self) -> dict[Address, tuple[int, bytes]]:
        """VIP -> (index, MAC): those that are answered for."""
        return self._vips.rows()

    def known_vips(self) -> list[Address]:
        """By row: whose connections it has, also when its VIP is deleted; `::`: nobody's."""
        return self._vips.known()

    def set_vip(
        self,
        vip: Address,
        index: int,
        mac: bytes,
        udp_idle: int = UDP_IDLE_SECONDS,
        gathering: float | None = None,
    ) -> None:
        """The VIP of this row, and of no other; connections and counts of another go.

        `udp_idle`: seconds, as a definition's. `gathering`: seconds, as in `gather`; None: as
        it was.
        """
        if self.known_vips()[index] != vip:
            self.table.forget(vip_rows=[index])
            self._counters.release_row(index)
        self._vips.set(vip, index, mac, udp_idle, _until(gathering))

    def delete_vip(self, vip: Address) -> None:
        """Absent: success. Its connections are known until its row is another's."""
        self._vips.delete(vip)

    def gather(self, vip: Address, seconds: float) -> None:
        """For so long, to 0.13 s, what is not known and no SYN is dropped; 0: no longer.

        The kernel ends it by itself: a daemon that died in between leaves nothing behind.
        """
        self._vips.gather(vip, _until(seconds) or 0)

    def absent(self, vip: Address) -> int | None:
        """The slot of `set_absent`."""
        return self._vips.absent(vip)

    def set_absent(self, vip: Address, slot: int | None) -> None:
        """Whose host gets what is not known and no SYN, once nothing waits; None: nobody.

        It stays with the VIP's row. No row: success.
        """
        self._vips.set_absent(vip, slot)

    def fenced(self, index: int) -> bool:
        """Whether another host was seen to announce the VIP since `unfence`."""
        return self._maps["fenced"].lookup(_u32(index)) != bytes(abi.Fence())

    def fence(self, index: int, mac: bytes) -> None:
        """As if the host of that MAC had been seen to announce the VIP."""
        raised = abi.Fence(raised=1)
        raised.mac[:] = mac
        self._maps["fenced"].update(_u32(index), bytes(raised))

    def unfence(self, index: int) -> None:
        self._maps["fenced"].update(_u32(index), bytes(abi.Fence()))

    def set_peers(self, peers: Mapping[bytes, Collection[int]]) -> int:
        """MAC -> the rows of the VIPs that its host has: what it sends to them goes no further.

        Instead of any that were set. Of more than abi.PEERS_A_ROW MACs whose
        last byte is the same, the others are left out, and the TTL ends a loop:
        so many as it returns.
        """
        left_out = 0
        rows = [abi.PeerRow() for _ in range(abi.PEER_ROWS)]
        for mac, indexes in peers.items():
            entry = int.from_bytes(mac) << 16 | sum(1 << index for index in set(indexes))
            places = rows[mac[-1]].peers
            if 0 in places:
                places[list(places).index(0)] = entry
            else:
                left_out += 1
        keys = b"".join(map(_u32, range(abi.PEER_ROWS)))
        self._maps["peers"].update_batch(keys, b"".join(map(bytes, rows)), abi.PEER_ROWS)
        return left_out

    # ---- routes ----

    def create_routes(self, index: int) -> None:
        """A new, empty port table for the VIP's row, instead of any there was."""
        table = Map.create(MapType.ARRAY, "port_table", 4, sizeof(abi.Route), _ROWS)
        self._maps["routes"].update(_u32(index), _u32(table.fd))
        self._forget_table(index)
        self._tables[index] = table

    def set_routes(self, index: int, rows: Mapping[PortKey, RouteRow]) -> None:
        """Each row at once, the rows in any order. Raises KernelError without a port table."""
        keys = b"".join(_u32(_row_of(key)) for key in rows)
        values = b"".join(
            bytes(abi.Route(row.kind, row.target, row.hosts)) for row in rows.values()
        )
        self._table(index).update_batch(keys, values, len(rows))

    def routes(self, index: int) -> dict[PortKey, RouteRow]:
        """The ports that have a route; empty without a port table."""
        if self._maps["routes"].lookup(_u32(index)) is None:
            return {}
        _, values = self._table(index).dump()
        return {
            _key_of(number): RouteRow(kind, target, hosts)
            for number, (kind, target, hosts) in enumerate(_ROUTE.iter_unpack(values))
            if kind  # not abi.RouteKind.NONE; a name would cost more than all the rest
        }

    def clear_routes(self, index: int) -> None:
        """No port table: packets of the VIP, if any is left here, are dropped."""
        self._maps["routes"].delete(_u32(index))
        self._forget_table(index)

    # ---- targets ----

    def set_selection(self, index: int, method: int, slots: Sequence[int]) -> None:
        """`method` is a SelectionMethod; 1..SELECTION_SLOTS host slots."""
        row = abi.Selection(method, len(slots))
        row.slots[: len(slots)] = list(slots)
        self._maps["selections"].update(_u32(index), bytes(row))

    def selections(self) -> dict[int, SelectionRow]:
        """Those that were set."""
        rows = ((_number(k), abi.Selection.from_buffer_copy(v)) for k, v in self._set("selections"))
        return {i: SelectionRow(row.method, tuple(row.slots[: row.size])) for i, row in rows}

    def set_host(self, slot: int, row: HostRow) -> None:
        """What was counted for another host, or by another path, is no longer the slot's."""
        before = _unpack_host(self._maps["hosts"].lookup(_u32(slot)) or bytes(sizeof(abi.Host)))
        hops = (_pack_hop(row.ipv4), _pack_hop(row.ipv6))
        host = abi.Host(hops, row.weight)
        host.mac[:] = row.mac or bytes(6)
        self._maps["hosts"].update(_u32(slot), bytes(host))
        self._counters.release_slot(slot, self._counted_otherwise(before, row))

    def hosts(self) -> dict[int, HostRow]:
        """Slot -> row, of those that were set."""
        return {_number(key): _unpack_host(value) for key, value in self._set("hosts")}

    # ---- what the program writes ----

    def connections(self) -> Iterator[ConnectionRow]:
        """Those of VIPs that are no longer distributed here too. ConnectionTable.rows has more."""
        known = self.known_vips()
        return self.table.rows(known.__getitem__)

    def forget_connections(self, slots: Collection[int]) -> int:
        """How many went to these slots: before a slot becomes another host's."""
        self._forget_fragments()
        return self.table.forget(slots=slots)

    def enter_connections(self, vip: Address, index: int, slot: int, rows: bytes) -> Entered:
        """What the host of the slot says are its connections; see ConnectionTable.enter."""
        return self.table.enter(vip, index, slot, rows)

    def forget_vip(self, index: int) -> int:
        """How many connections this row's VIP had."""
        return self.table.forget(vip_rows=[index])

    def counts(self, slots: Collection[int] = range(MAX_HOSTS)) -> list[Count]:
        """What is not zero, since the maps were made; rows are those of `known_vips`.

        `slots`: all, as a packet may be for one that has no host.
        """
        return list(self._counters.read(self._counted_vips(), slots))

    def counters(self) -> dict[str, int]:
        """Packets by verdict, in lower case, since the maps were made."""
        return packets_by_verdict(self.counts())

    # ---- inside ----

    @property
    def _link_pin(self) -> Path:
        return loader.link_pin(self._pins, "distribute")

    @property
    def _xdp_pin(self) -> Path:
        return loader.link_pin(self._pins, "distribute_xdp")

    def _attach(self) -> None:
        """TC first: XDP leaves to it what it does not do itself."""
        traffic.attach(self.program, self._interface_index, Filter.DISTRIBUTE, self._link_pin)
        if self.xdp_program is None:
            loader.detach(self._xdp_pin)
            return
        loader.attach(
            self.xdp_program, self._interface_index, AttachType.XDP, self._xdp_pin
        ).close()

    def _counted_vips(self) -> dict[int, Address]:
        """By row: of those that have, or had, a VIP."""
        return {row: vip for row, vip in enumerate(self.known_vips()) if vip != _NOWHERE}

    def _counted_otherwise(self, before: HostRow, now: HostRow) -> list[int]:
        """The VIPs' rows whose packets another host got, or this one by another path."""
        other = before.addresses.isdisjoint(now.addresses)
        return [
            row
            for row, vip in self._counted_vips().items()
            if other or before.hop(vip).path != now.hop(vip).path
        ]

    def _forget_fragments(self) -> None:
        """Where packets in fragments go: whatever the slot, as none lasts for seconds."""
        for key, _ in self._maps["fragments"].items():
            self._maps["fragments"].delete(key)

    def _table(self, index: int) -> Map:
        if index not in self._tables:
            number = self._maps["routes"].lookup(_u32(index))
            if number is None:
                raise KernelError(f"row {index} has no port table", errno.ENOENT)
            self._tables[index] = inner_maps.take(_number(number))
        return self._tables[index]

    def _forget_table(self, index: int) -> None:
        if index in self._tables:
            self._tables.pop(index).close()

    def _set(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        """The rows of an array that are not all zero."""
        return ((key, value) for key, value in self._maps[name].items() if any(value))


@contextlib.contextmanager
def _resized(pin: Path, entries: int) -> Iterator[Map | None]:
    """A pinned table of another size, unpinned so that a new one takes its place; else None.

    What is no such table at all stays: the loader names it.
    """
    former = Map.open_pinned(pin) if pin.exists() else None
    if former is not None and (
        former.max_entries == entries or former.value_size != sizeof(abi.Bucket)
    ):
        former.close()
        former = None
    if former is not None:
        pin.unlink()
    try:
        yield former
    finally:
        if former is not None:
            if not pin.exists():  # nothing took its place: the running program still has it
                former.pin(pin)
            former.close()


def _until(seconds: float | None) -> int | None:
    """In ticks; 0: no longer."""
    if seconds is None:
        return None
    return in_ticks(seconds) if seconds > 0 else 0


def _row_of(key: PortKey) -> int:
    protocol, port = key
    return protocol * abi.PORTS + port


def _key_of(row: int) -> PortKey:
    return Protocol(row // abi.PORTS), row % abi.PORTS


def _pack_hop(hop: Hop) -> abi.Hop:
    address, source = (abi.Address.of(a or _NOWHERE) for a in (hop.address, hop.source))
    return abi.Hop(address, hop.path, hop.ifindex, source, hop.mtu)


def _unpack_host(raw: bytes) -> HostRow:
    row = abi.Host.from_buffer_copy(raw)
    return HostRow(
        _unpack_hop(row.hops[Family.IPV4]),
        _unpack_hop(row.hops[Family.IPV6]),
        row.weight,
        bytes(row.mac) if any(row.mac) else b"",
    )


def _unpack_hop(raw: abi.Hop) -> Hop:
    return Hop(_known(raw.address), raw.path, raw.ifindex, _known(raw.source), raw.mtu)


def _known(raw: abi.Address) -> Address | None:
    address = raw.unpack()
    return None if address == _NOWHERE else address


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
