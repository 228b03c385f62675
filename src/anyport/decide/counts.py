# SPDX-License-Identifier: Apache-2.0
"""Which sockets count as listeners of a VIP, and what to notify (R2, R3, R4, R7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from anyport.model import Definition, Listener, ListenerKey, Notification, PortBlock, Socket
from anyport.model.definition import Address

UserName = Callable[[int], str]


def counts(definition: Definition, socket: Socket, own_blocks: Sequence[PortBlock] = ()) -> bool:
    """Whether `socket` is a listener of `definition.vip` (claims 2, 3, 7).

    Not enumerated: bound to the VIP specifically, whatever its port (R2).
    Enumerated: on an enumerated port, bound to the VIP or to a wildcard that
    takes the VIP's family (R3); or bound specifically inside one of this
    host's own blocks of that VIP (R7). The host itself is not asked about.
    """
    if socket.address == definition.vip:
        return (
            not definition.enumerated
            or definition.enumerates(socket.protocol, socket.port)
            or any(definition.vip == b.vip and socket.port in b for b in own_blocks)
        )
    return takes(socket, definition.vip) and definition.enumerates(socket.protocol, socket.port)


def takes(socket: Socket, vip: Address) -> bool:
    """Whether the kernel would give the socket a packet to `vip`, ports apart.

    `::` takes IPv4 unless IPV6_V6ONLY was set; 0.0.0.0 never takes IPv6.
    """
    if not socket.wildcard:
        return socket.address == vip
    return socket.address.version == vip.version or (vip.version == 4 and socket.takes_ipv4)


def listeners(
    host: str,
    definitions: Iterable[Definition],
    sockets: Iterable[Socket],
    own_blocks: Mapping[Address, Sequence[PortBlock]],
    user_name: UserName,
) -> dict[ListenerKey, Listener]:
    """All listeners of `host`, however many sockets make up each (R4).

    `own_blocks` is by VIP. Definitions that do not allow the host are passed over.
    """
    allowed = [d for d in definitions if d.allows(host)]
    by_vip = {d.vip: d for d in allowed}
    enumerated = [d for d in allowed if d.enumerated]
    first: dict[ListenerKey, Socket] = {}
    for socket in sockets:
        # A specific socket can count for its own VIP only: no walk over the rest.
        candidates = enumerated if socket.wildcard else _only(by_vip.get(socket.address))
        for definition in candidates:
            if counts(definition, socket, own_blocks.get(definition.vip, ())):
                key = ListenerKey(definition.vip, socket.protocol, socket.port)
                first[key] = min(first.get(key, socket), socket, key=_precedence)
    return {k: _listener_of(host, k.vip, s, user_name) for k, s in first.items()}


def notifications(
    have: Mapping[ListenerKey, Listener], want: Mapping[ListenerKey, Listener]
) -> list[Notification]:
    """What to tell the distributor so that what it knows becomes `want` (R4).

    Openings first: until one is told its clients are refused, whereas a
    closing told late costs nothing that the closed socket would not. Changes
    (user, process, specific) next: `specific` decides about the route when a
    definition changes. Then closings.
    """
    opened = [Notification(k, v) for k, v in want.items() if k not in have]
    changed = [Notification(k, v) for k, v in want.items() if k in have and have[k] != v]
    closed = [Notification(k, None) for k in have if k not in want]
    return opened + changed + closed


def _precedence(socket: Socket) -> tuple[bool, int]:
    """Specific before wildcard, as in the kernel's own lookup; then the oldest cookie."""
    return socket.wildcard, socket.cookie


def _listener_of(host: str, vip: Address, socket: Socket, user_name: UserName) -> Listener:
    return Listener(
        vip=vip,
        protocol=socket.protocol,
        port=socket.port,
        host=host,
        specific=not socket.wildcard,
        user=user_name(socket.uid),
        process=socket.process,
    )


def _only(definition: Definition | None) -> tuple[Definition, ...]:
    return () if definition is None else (definition,)
