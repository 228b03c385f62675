# SPDX-License-Identifier: Apache-2.0
"""The maps `definitions` and `port_words`: what each definition means to the kernel programs."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anyport.errors import KernelError
from anyport.kernel import abi
from anyport.kernel.libbpf import Map
from anyport.model import Definition, PortBlock, PortSet, Protocol
from anyport.model.definition import Address

_WORD = 24  # bytes of struct port_word
_ROW = len(Protocol) * abi.PORT_WORDS  # words of one VIP
_ENUMERATED, _OWN = 0, 2  # fields of struct port_word


@dataclass(frozen=True, slots=True)
class HostedDefinition:
    """What this host has to know about a VIP.

    `leased`: the blocks of every host; `own`: those among them that this one hands out of.
    """

    definition: Definition
    leased: Sequence[PortBlock] = ()
    own: Sequence[PortBlock] = ()


class Definitions:
    """Writes both maps by diff; the only writer, so what it read at first stays true."""

    def __init__(self, definitions: Map, port_words: Map) -> None:
        self._definitions = definitions
        self._port_words = port_words
        self._rows = _read_rows(port_words)
        self._have = {
            abi.unpack_address(key): abi.Definition.from_buffer_copy(value)
            for key, value in definitions.items()
        }

    def index(self, vip: Address) -> int:
        """Row of the VIP; the same as long as the VIP is defined. Raises KernelError."""
        if vip not in self._have:
            raise KernelError(f"{vip} is not a VIP that this host has a definition of")
        return int(self._have[vip].index)

    def vips(self) -> list[Address]:
        return list(self._have)

    def program(self, wanted: Sequence[HostedDefinition]) -> list[int]:
        """Makes the maps say `wanted`; the rows that became free.

        Between two writes each port is treated as before or as after. Raises
        KernelError, with nothing written, for more than MAX_VIPS.
        """
        if len(wanted) > abi.MAX_VIPS:
            raise KernelError(f"{len(wanted)} VIPs are defined; a host takes {abi.MAX_VIPS}")
        vips = {w.definition.vip for w in wanted}
        freed = [self._remove(vip) for vip in list(self._have) if vip not in vips]
        for hosted in wanted:
            self._put(hosted)
        return freed

    def concern(self, bound_to: Address, v6only: bool, protocol: Protocol, port: int) -> bool:
        """What `relevant` in listen_sockets.h says, of a socket bound so."""
        if not bound_to.is_unspecified:
            return bound_to in self._have
        return any(
            self._rows[raw.index][_position(protocol, port) + _ENUMERATED] >> port % 64 & 1
            for vip, raw in self._have.items()
            if vip.version == bound_to.version or (vip.version == 4 and not v6only)
        )

    def _remove(self, vip: Address) -> int:
        """Definition first: a row without one means nothing."""
        index = int(self._have.pop(vip).index)
        self._definitions.delete(abi.pack_address(vip))
        self._write_row(index, _empty_row())
        return index

    def _put(self, hosted: HostedDefinition) -> None:
        """A port bit passes whatever listens, the flag refuses all others: bits before the
        flag when it is set, after it when it is cleared. A new VIP has its bits first of all."""
        vip, enumerated = hosted.definition.vip, hosted.definition.enumerated
        index = self._have[vip].index if vip in self._have else self._free_index()
        if vip in self._have and not enumerated:
            self._write_definition(vip, index, enumerated)
        self._write_row(index, _row(hosted))
        self._write_definition(vip, index, enumerated)

    def _free_index(self) -> int:
        used = {raw.index for raw in self._have.values()}
        return next(i for i in range(abi.MAX_VIPS) if i not in used)

    def _write_definition(self, vip: Address, index: int, enumerated: bool) -> None:
        flags = abi.DefinitionFlags.ENUMERATED if enumerated else 0
        raw = abi.Definition(index=index, flags=flags)
        if vip not in self._have or bytes(self._have[vip]) != bytes(raw):
            self._definitions.update(abi.pack_address(vip), bytes(raw))
            self._have[vip] = raw

    def _write_row(self, index: int, row: array[int]) -> None:
        have = self._rows[index]
        if have == row:
            return
        changed = [w for w in range(_ROW) if have[3 * w : 3 * w + 3] != row[3 * w : 3 * w + 3]]
        keys = array("I", [index * _ROW + w for w in changed])
        values = b"".join(row[3 * w : 3 * w + 3].tobytes() for w in changed)
        self._port_words.update_batch(keys.tobytes(), values, len(changed))
        self._rows[index] = row


def _read_rows(port_words: Map) -> list[array[int]]:
    _, values = port_words.dump()
    size = _ROW * _WORD
    return [array("Q", values[i * size : (i + 1) * size]) for i in range(abi.MAX_VIPS)]


def _empty_row() -> array[int]:
    return array("Q", bytes(_ROW * _WORD))


def _position(protocol: Protocol, port: int) -> int:
    return 3 * (protocol * abi.PORT_WORDS + port // 64)


def _row(hosted: HostedDefinition) -> array[int]:
    ports = hosted.definition.ports
    row = _empty_row()
    if isinstance(ports, PortSet):
        row[0::3] = _bits(ports.tcp) + _bits(ports.udp)
    row[1::3] = _bits((b.first, b.last) for b in hosted.leased) * len(Protocol)
    row[2::3] = _bits((b.first, b.last) for b in hosted.own) * len(Protocol)
    return row


def _bits(ranges: Iterable[tuple[int, int]]) -> array[int]:
    """One bit a port, in PORT_WORDS words."""
    bits = 0
    for first, last in ranges:
        bits |= ((1 << (last - first + 1)) - 1) << first
    return array("Q", bits.to_bytes(abi.PORTS // 8, "little"))
