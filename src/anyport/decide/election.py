# SPDX-License-Identifier: Apache-2.0
"""Who distributes a VIP, and under which term."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from anyport.decide.rows import MAX_VIPS
from anyport.model import Candidacy, Definition, Distributing, Host, HostState

MOST_CANDIDACIES = 4 * MAX_VIPS
"""Of one host, and of its publications: of VIPs that may be in force, and of some that were."""

Network = IPv4Network | IPv6Network


def elect(
    definition: Definition,
    candidacies: Iterable[Candidacy],
    hosts: Mapping[str, Host],
    distributing: Iterable[Distributing],
) -> str | None:
    """The host that distributes `definition.vip`; None: nobody may.

    Candidates are hosts that the definition allows and that are active. A
    host that distributes already stays (no preemption: a takeover costs
    connections and wins nothing); of two such, the one with the highest term,
    for it was elected by who no longer saw the other. Else the lowest rank,
    then the oldest candidacy. Entries of other VIPs are passed over.
    """
    candidates = {
        c.host: c
        for c in candidacies
        if c.vip == definition.vip and definition.allows(c.host) and is_active(hosts.get(c.host))
    }
    incumbents = [
        d for d in distributing if d.definition.vip == definition.vip and d.host in candidates
    ]
    if incumbents:
        return min(incumbents, key=lambda d: (-d.term, _age(candidates[d.host]))).host
    if not candidates:
        return None
    return min(candidates.values(), key=lambda c: (c.rank, *_age(c))).host


def successor(
    definition: Definition,
    host: str,
    candidacies: Iterable[Candidacy],
    hosts: Mapping[str, Host],
) -> str | None:
    """Who distributes the VIP if `host` leaves; None: nobody could."""
    return elect(definition, (c for c in candidacies if c.host != host), hosts, ())


def why_no_candidate(
    definition: Definition,
    host: Host,
    wish: bool | Literal["auto"],
    on_link: Collection[Network],
) -> str | None:
    """Why `host` is none for the VIP, for its operator; None: it is a candidate.

    `on_link`: the networks at its LAN interface. By itself it is a candidate
    only for a VIP within one of them: it would announce any other into a LAN
    where nobody asks for it, and as nobody is preempted, have it for ever.
    """
    vip = definition.vip
    if not definition.allows(host.name):
        return "the definition leaves it out"
    if not is_active(host):
        return "it is drained"
    if host.address_for(vip.version) is None:
        return f"it has no IPv{vip.version} address"
    if wish == "auto" and not any(vip in network for network in on_link):
        return "the VIP is not on-link at its LAN interface"
    return None if wish else "its distributor.candidate is false"


def next_term(known_terms: Iterable[int], revision: int) -> int:
    """The term of a new tenure: above every term seen, and at least the registry's `revision`.

    The revision makes it grow even where the earlier terms were deleted with
    their hosts' leases.
    """
    return max(revision, max(known_terms, default=0) + 1)


def is_active(host: Host | None) -> bool:
    return host is not None and host.state is HostState.ACTIVE


def _age(candidacy: Candidacy) -> tuple[int, str]:
    return candidacy.create_revision, candidacy.host
