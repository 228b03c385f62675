# SPDX-License-Identifier: Apache-2.0
"""The nouns of anyport. All are frozen values; none does I/O."""

from anyport.model.cluster import Candidacy, Cluster, ConnectionsPiece, Distributing
from anyport.model.definition import ANY, Definition, Method, Ports, PortSet
from anyport.model.host import Drain, Heartbeat, Host, HostState, PathWish, Remaining
from anyport.model.listener import Listener, ListenerKey, Notification, Socket
from anyport.model.port_block import Claim, PortBlock, Void
from anyport.model.protocol import Protocol
from anyport.model.route import Distributed, PortKey, Route, Target, Unique

__all__ = [
    "ANY",
    "Candidacy",
    "Claim",
    "Cluster",
    "ConnectionsPiece",
    "Definition",
    "Distributed",
    "Distributing",
    "Drain",
    "Heartbeat",
    "Host",
    "HostState",
    "Listener",
    "ListenerKey",
    "Method",
    "Notification",
    "PathWish",
    "PortBlock",
    "PortKey",
    "PortSet",
    "Ports",
    "Protocol",
    "Remaining",
    "Route",
    "Socket",
    "Target",
    "Unique",
    "Void",
]
