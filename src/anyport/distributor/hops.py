# SPDX-License-Identifier: Apache-2.0
"""How packets get to each host, as rows of the distributor's maps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from anyport.decide.paths import Choice, RouteTo, choices
from anyport.decide.rows import HostRow, Path
from anyport.kernel.routes import Routes
from anyport.model import Host
from anyport.model.definition import Address

log = logging.getLogger(__name__)

Choices = Mapping[str, Mapping[int, Choice]]
"""By host, then by IP version."""


def all_choices(
    hosts: Mapping[str, Host], here: Host, routes: Mapping[Address, RouteTo], lan: int
) -> Choices:
    """See anyport.decide.paths.choose."""
    return {name: choices(host, here, routes, lan) for name, host in hosts.items()}


def host_rows(hosts: Mapping[str, Host], chosen: Choices) -> dict[str, HostRow]:
    """Of `hosts`, by name."""
    return {
        name: HostRow(chosen[name][4].hop, chosen[name][6].hop, host.weight, host.mac)
        for name, host in hosts.items()
    }


def tell_changes(before: Choices, now: Choices) -> None:
    """A line in the log for each path that is not what it was, or whose end is elsewhere."""
    for host, by_version in now.items():
        for version, choice in by_version.items():
            former = before.get(host, {}).get(version)
            if former is None or _end(former) != _end(choice):
                log.info("host %s: IPv%d by %s: %s", host, version, path(choice), choice.why)


def path(choice: Choice) -> str:
    """As people read it: `ipip to 10.1.0.3`."""
    hop = choice.hop
    word = Path(hop.path).name.lower()
    return f"{word} to {hop.address}" if hop.path in (Path.L2, Path.IPIP) else word


def _end(choice: Choice) -> tuple[int, Address | None]:
    return choice.hop.path, choice.hop.address


class Paths:
    """How this host sends to each of the others."""

    def __init__(
        self,
        here: Host,
        interface_index: int,
        routes: Routes,
        hosts: Callable[[], Mapping[str, Host]],
    ) -> None:
        self._here = here
        self._interface_index = interface_index
        self._routes = routes
        self._hosts = hosts
        self.choices: Choices = {}

    async def host_rows(self) -> dict[str, HostRow]:
        """Of the hosts as they were before the look-up: those that come meanwhile have a turn
        of their own."""
        hosts = dict(self._hosts())
        await self._routes.know_hosts(self, hosts)
        chosen = all_choices(hosts, self._here, self._routes.to, self._interface_index)
        tell_changes(self.choices, chosen)
        self.choices = chosen
        return host_rows(hosts, chosen)
