# SPDX-License-Identifier: Apache-2.0
"""What the distributor has programmed, and ordered changes to it."""

from __future__ import annotations

from anyport.decide.rows import (
    MAX_HOSTS,
    MAX_SELECTIONS,
    MAX_VIPS,
    METHOD_NUMBERS,
    SELECTION_SLOTS,
    Command,
    HostRow,
    Path,
    RouteKind,
    RouteRow,
    SelectionRow,
    SetHost,
    SetRoutes,
    SetSelection,
)

__all__ = [
    "MAX_HOSTS",
    "MAX_SELECTIONS",
    "MAX_VIPS",
    "METHOD_NUMBERS",
    "SELECTION_SLOTS",
    "Command",
    "HostRow",
    "Path",
    "RouteKind",
    "RouteRow",
    "SelectionRow",
    "SetHost",
    "SetRoutes",
    "SetSelection",
]
