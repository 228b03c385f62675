# SPDX-License-Identifier: Apache-2.0
"""A new distributor gathers the connections that hosts have: in pieces, and from whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from anyport.model import Cluster, ConnectionsPiece, Definition, Distributing, Host
from anyport.model.definition import Address

MOST_ROW_BYTES = 48_000
"""Of one piece: whole rows of either family."""

MOST_PIECES = 64
"""Of one host's answer: 384,000 connections of IPv4, 153,600 of IPv6."""


def asked(definition: Definition, hosts: Mapping[str, Host]) -> set[str]:
    """Who may have connections to the VIP, drained or not.

    A host that the definition leaves out is not heard (`--hosts` keeps it out): those that it
    has had from before end with the takeover.
    """
    version = definition.vip.version
    return {
        name
        for name, host in hosts.items()
        if definition.allows(name) and host.address_for(version) is not None
    }


def is_asked(host: str, versions: Collection[int], published: Distributing) -> bool:
    """The same, for the host itself: whether it is to answer."""
    definition = published.definition
    return published.gathering and definition.allows(host) and definition.vip.version in versions


def pieces(host: str, term: int, rows: bytes, piece_bytes: int) -> list[ConnectionsPiece]:
    """The answer; one at least, so that it can be seen to be whole.

    `piece_bytes`: of the rows of one, a multiple of a row's. What is more than MOST_PIECES
    hold is left out.
    """
    starts = range(0, max(len(rows), 1), piece_bytes)[:MOST_PIECES]
    count = len(starts)
    return [ConnectionsPiece(host, term, count, rows[at : at + piece_bytes]) for at in starts]


def is_whole(said: Mapping[int, ConnectionsPiece], term: int) -> bool:
    """Whether these are all pieces of an answer to the distributor of this term."""
    counts = {piece.pieces for piece in said.values() if piece.term == term}
    present = {number for number, piece in said.items() if piece.term == term}
    return len(counts) == 1 and present >= set(range(*counts))


def missing(vip: Address, term: int, definition: Definition, cluster: Cluster) -> set[str]:
    """The hosts that are there, are asked, and have not said all."""
    return {
        host
        for host in asked(definition, cluster.hosts)
        if not is_whole(cluster.connections.get((vip, host), {}), term)
    }
