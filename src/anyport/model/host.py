# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import enum
from dataclasses import dataclass

from anyport.model.definition import Address


class HostState(enum.Enum):
    ACTIVE = "active"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Host:
    """One Linux machine of the cluster, as it describes itself in the registry.

    `since`: Unix time (s) at which its daemon joined. `instance` tells two
    daemons of one name apart. That it lives, its lease says.
    """

    name: str
    address: Address
    weight: int = 100
    state: HostState = HostState.ACTIVE
    since: float = 0.0
    instance: str = ""
