# SPDX-License-Identifier: Apache-2.0
"""Whose packets to a VIP have been distributed already (bpf/peers.h)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from anyport.model import Definition, Host
from anyport.model.definition import Address


def peers(
    hosts: Iterable[Host], definitions: Mapping[Address, Definition], rows: Mapping[Address, int]
) -> dict[bytes, frozenset[int]]:
    """MAC -> rows of the VIPs that its host has on `lo`; `rows` are those of the VIPs here."""
    found: defaultdict[bytes, set[int]] = defaultdict(set)
    for host in hosts:
        for vip, row in rows.items():
            if host.mac and vip in definitions and _has(host, definitions[vip]):
                found[host.mac].add(row)
    return {mac: frozenset(indexes) for mac, indexes in found.items()}


def _has(host: Host, definition: Definition) -> bool:
    return definition.allows(host.name) and host.address_for(definition.vip.version) is not None
