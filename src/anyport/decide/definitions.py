# SPDX-License-Identifier: Apache-2.0
"""Whether a definition may stand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv6Address

from anyport.decide.rows import MAX_VIPS
from anyport.errors import UsageError
from anyport.model import ANY, Definition, Host, PortSet
from anyport.model.definition import MAX_DEFINITION_SIZE, Address


def validate(
    definition: Definition, others: Iterable[Definition], known_hosts: Mapping[str, Host]
) -> None:
    """Raises UsageError, one line, unless `definition` may join `others`.

    `others` are the definitions that stay beside it: when one is changed, all
    but that one.
    """
    _check_others(definition, list(others))
    _check_hosts(definition, known_hosts)
    for fault in _faults(definition, known_hosts):
        raise UsageError(f"VIP {definition.vip}: {fault}")


def acceptable(
    definitions: Iterable[Definition],
    hosts: Mapping[str, Host],
    in_force: Collection[Address] = (),
) -> tuple[dict[Address, Definition], dict[Address, str]]:
    """What of the registry's `definitions` may be in force, and why the rest may not, by VIP.

    What is `in_force` stays: a host that joins with a VIP for its address is
    at fault itself.

    Whoever can write to the registry can write there what `validate` refuses:
    the address of a host, say, which on every `lo` would cut that host off. Of
    too many the lowest addresses are taken, so that all hosts take the same.
    Unknown hosts are no fault here: they may join yet.
    """
    accepted: dict[Address, Definition] = {}
    problems: dict[Address, str] = {}
    for definition in sorted(
        definitions, key=lambda d: (d.vip not in in_force, d.vip.version, d.vip.packed)
    ):
        stays = definition.vip in in_force
        fault = None if stays else next(_faults(definition, hosts), None)
        if fault is None and len(accepted) >= MAX_VIPS:
            fault = f"{MAX_VIPS} VIPs at most, and those of lower addresses are taken"
        if fault is None:
            accepted[definition.vip] = definition
        else:
            problems[definition.vip] = fault
    return accepted, problems


def address_fault(vip: Address) -> str | None:
    """Why this address can never be a VIP, of whatever version anyport is."""
    if isinstance(vip, IPv6Address) and vip.ipv4_mapped:
        return f"it stands for an IPv4 address; give {vip.ipv4_mapped}"
    for fault in ("unspecified", "loopback", "multicast", "reserved", "link_local"):
        if getattr(vip, f"is_{fault}"):
            word = "broadcast or reserved" if fault == "reserved" else fault.replace("_", "-")
            return f"a {word} address; give a unicast address of the hosts' LAN"
    return None


def _faults(definition: Definition, hosts: Mapping[str, Host]) -> Iterator[str]:
    """What is wrong with a definition by itself, and beside the hosts' addresses."""
    vip = definition.vip
    if (fault := address_fault(vip)) is not None:
        yield fault
    if definition.ports is not ANY and definition.ports == PortSet():
        yield "no port; give `any` or at least one port"
    if definition.hosts is not None and not definition.hosts:
        yield f"no host; give `all` or some of: {_names(hosts)}"
    if definition.size > MAX_DEFINITION_SIZE:
        yield (
            f"ports and hosts take {definition.size} characters, allowed are"
            f" {MAX_DEFINITION_SIZE}; join neighbouring ports to ranges, or give `any`"
        )
    for host in hosts.values():
        if vip in host.addresses:
            yield f"the address of host {host.name}; give one that no interface has"


def _check_others(definition: Definition, others: list[Definition]) -> None:
    if any(d.vip == definition.vip for d in others):
        raise UsageError(
            f"VIP {definition.vip} is defined already; `anyport vip set` changes it,"
            " `anyport vip delete` removes it"
        )
    if len(others) >= MAX_VIPS:
        raise UsageError(f"VIP {definition.vip}: {MAX_VIPS} VIPs at most; delete one first")


def _check_hosts(definition: Definition, known_hosts: Mapping[str, Host]) -> None:
    unknown = sorted((definition.hosts or frozenset()) - known_hosts.keys())
    if unknown:
        raise UsageError(f"unknown host {', '.join(unknown)}; known are: {_names(known_hosts)}")


def _names(hosts: Mapping[str, Host]) -> str:
    return ", ".join(sorted(hosts)) or "none"
