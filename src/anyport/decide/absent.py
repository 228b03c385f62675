# SPDX-License-Identifier: Apache-2.0
"""Hosts whose lease has ended a short while ago: their kernels may well go on serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anyport.model import Host


@dataclass(frozen=True, slots=True)
class Absent:
    """`host` as it last described itself; `since`: when it was missed (s, of any clock)."""

    host: Host
    since: float


def still_absent(
    before: Mapping[str, Absent],
    former: Mapping[str, Host],
    hosts: Mapping[str, Host],
    now: float,
    seconds: float,
    most: int,
) -> dict[str, Absent]:
    """Who is absent now, who went last at the end.

    `before`: who was; `former`: the members that were; `hosts`: those that are.
    One that has been away for `seconds` is none of the cluster any more; nor is
    one whose address a member has by now. With the members they are `most`.
    """
    gone = {name: Absent(host, now) for name, host in former.items() if name not in before}
    taken = {address for host in hosts.values() for address in host.addresses}
    found = {
        name: one
        for name, one in {**before, **gone}.items()
        if name not in hosts and now - one.since < seconds and taken.isdisjoint(one.host.addresses)
    }
    room = max(0, most - len(hosts))
    return dict(list(found.items())[len(found) - min(room, len(found)) :])


def stand_in(unheard: set[str], absent: Mapping[str, Absent], present: str | None) -> str | None:
    """Who gets the segments of connections that no host has said are its own: of the hosts that
    have not been heard, the one that went last, which as a rule is the former distributor.

    Of several it can only be right for one, so `present`, who gets them now,
    stays. A member that is there and says nothing is taken if none is absent.
    """
    if present in unheard:
        return present
    gone = [name for name in absent if name in unheard]
    return gone[-1] if gone else min(unheard - absent.keys(), default=None)
