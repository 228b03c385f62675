# SPDX-License-Identifier: Apache-2.0
"""What the checker grants: each bound, and each excuse, in one place."""

from __future__ import annotations

from typing import Literal

CONVERGED_SECONDS = 30.0
"""After the last fault: all daemons agree, every listener is served. An emptied etcd takes half of
it: hosts wait 10 s for what was there, and then 5 for its distributor."""

KNOWN_SECONDS = 2.0
"""While no fault is near: from listen() or close() until a probe has to see it. For so long a host
that has closed a port may be chosen yet, and refuses, though others listen there."""

TTL_SECONDS = 2
"""Of leases: so short that faults of seconds outlast one."""

LEASE_SECONDS = TTL_SECONDS + 0.5
"""After a fault: a lease that could not be renewed meanwhile ends up to so much later, as etcd
looks twice a second for those that have. Daemons that agree before may agree on what was."""

BOTH_SECONDS = 1.0
"""For so long at most two hosts forward packets of one VIP: until the successor's announcement
has arrived, the machine being busy."""

ON_THE_WAY_SECONDS = 0.1
"""A datagram that is sent so shortly before the wire shows a takeover, or after, may be lost: the
former distributor has heard the announcement, and its sender not yet. TCP sends again."""

LOSES_BLOCKS = {"away", "etcd_gone"}
"""A host hit by it may lose its blocks to another, ports in use with them: it could not say so."""

GAP_SECONDS = 0.5
"""A host that forwards nothing for longer has stopped to forward."""

NEAR_SECONDS = 1.0
"""Clocks are one, but what is seen on the wire is told up to so much later."""

SEVERAL_ABSENT_HOSTS_LOSE_CONNECTIONS_AT_A_TAKEOVER = True
"""Who takes over asks the members for their connections. What none of them has it takes for that of
the host whose lease has ended; of several such, for one's, and the others' may break."""

FLOWS_MOVE_AT_A_TAKEOVER = True
"""A host does not know its UDP flows, so who takes over cannot ask for them: they go where the
hash says, of the targets that there are then."""

Whose = Literal["nobody's", "its host's", "the distributor's too"]

BREAKS: dict[str, Whose] = {
    "kill": "nobody's",
    "freeze": "nobody's",
    "stop": "nobody's",
    "upgrade": "nobody's",
    "etcd_kill": "nobody's",
    "etcd_freeze": "nobody's",
    "etcd_empty": "nobody's",
    "etcd_cut": "nobody's",
    "lan_cut": "the distributor's too",
    "compact": "nobody's",
    "drain": "nobody's",
    "method": "nobody's",
    "server_kill": "its host's",
    "away": "nobody's",
    "etcd_gone": "nobody's",
}
"""Whose connections a fault may break that live while it lasts: those of the host that it hits; of
a host that distributes, all that are forwarded by it. Every other fault breaks none, by itself:
what its takeover does is a matter of its own, above."""

CUTS = {"lan_cut"}
"""While it lasts, and until all is settled, a service that every host has may not be reached. No
other fault may be seen by those who begin a connection to one: packets outlive all processes. The
same holds for ports that bind(VIP, 0) gave."""

ENDS_DAEMONS = {"kill", "stop", "upgrade", "away"}
"""An emptied etcd changes nothing, as the daemons remember the definitions. One that begins anew
before the operator has written these again does not, and takes the VIP off its host
(docs/failures.md): until all is settled then there may be none, and what is with it may break."""

START_SECONDS = 5.0
"""For a daemon to have read the registry, the machine being busy."""

REMOVES = {
    *("kill", "freeze", "stop", "upgrade", "away", "server_kill"),
    *("etcd_kill", "etcd_freeze", "etcd_empty", "etcd_cut", "etcd_gone", "lan_cut"),
}
"""A host hit by it may be no target any more for a while, as its lease ended, and UDP flows leave
it: from the fault's begin until all is settled. Those that hit no host, hit any."""
