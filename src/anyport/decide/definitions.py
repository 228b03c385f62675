# SPDX-License-Identifier: Apache-2.0
"""Whether a definition may stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from anyport.decide.rows import MAX_VIPS
from anyport.errors import UsageError
from anyport.model import ANY, Definition, Host, PortSet
from anyport.model.definition import Address


def validate(
    definition: Definition, others: Iterable[Definition], known_hosts: Mapping[str, Host]
) -> None:
    """Raises UsageError, one line, unless `definition` may join `others`.

    `others` are the definitions that stay beside it: when one is changed, all
    but that one.
    """
    _check_address(definition.vip)
    _check_others(definition, list(others))
    _check_ports(definition)
    _check_hosts(definition, known_hosts)


def _check_address(vip: Address) -> None:
    if not isinstance(vip, IPv4Address):
        raise UsageError(f"VIP {vip}: IPv6 is not distributed yet; give an IPv4 address")
    for fault in ("unspecified", "loopback", "multicast", "reserved", "link_local"):
        if getattr(vip, f"is_{fault}"):
            word = "broadcast or reserved" if fault == "reserved" else fault.replace("_", "-")
            raise UsageError(
                f"VIP {vip}: a {word} address; give a unicast address of the hosts' LAN"
            )


def _check_others(definition: Definition, others: list[Definition]) -> None:
    if any(d.vip == definition.vip for d in others):
        raise UsageError(
            f"VIP {definition.vip} is defined already; `anyport vip set` changes it,"
            " `anyport vip delete` removes it"
        )
    if len(others) >= MAX_VIPS:
        raise UsageError(f"VIP {definition.vip}: {MAX_VIPS} VIPs at most; delete one first")


def _check_ports(definition: Definition) -> None:
    if definition.ports is not ANY and definition.ports == PortSet():
        raise UsageError(f"VIP {definition.vip}: no port; give `any` or at least one port")


def _check_hosts(definition: Definition, known_hosts: Mapping[str, Host]) -> None:
    known = ", ".join(sorted(known_hosts)) or "none"
    if definition.hosts is not None and not definition.hosts:
        raise UsageError(f"VIP {definition.vip}: no host; give `all` or some of: {known}")
    unknown = sorted((definition.hosts or frozenset()) - known_hosts.keys())
    if unknown:
        raise UsageError(f"unknown host {', '.join(unknown)}; known are: {known}")
    for host in known_hosts.values():
        if host.address == definition.vip:
            raise UsageError(
                f"VIP {definition.vip} is the address of host {host.name};"
                " give one that no interface has"
            )
