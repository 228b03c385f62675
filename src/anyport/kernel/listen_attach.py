# SPDX-License-Identifier: Apache-2.0
"""listen.bpf.c: loaded, attached to a cgroup and a network namespace, and taken off again."""

from __future__ import annotations

import os
from pathlib import Path

from anyport.errors import KernelError
from anyport.kernel import loader
from anyport.kernel.libbpf import AttachType, Link, Object, Program
from anyport.kernel.netns import current_netns, netns_cookie

_CGROUP = {
    "tcp_listeners": AttachType.CGROUP_SOCK_OPS,
    "bound4": AttachType.CGROUP_INET4_POST_BIND,
    "bound6": AttachType.CGROUP_INET6_POST_BIND,
    "connected4": AttachType.CGROUP_INET4_CONNECT,
    "connected6": AttachType.CGROUP_INET6_CONNECT,
    "released": AttachType.CGROUP_INET_SOCK_RELEASE,
    "binds4": AttachType.CGROUP_INET4_BIND,
    "binds6": AttachType.CGROUP_INET6_BIND,
}
_LOOKUP = "leaks"
LINKS = frozenset(f"listen_{name}" for name in (*_CGROUP, _LOOKUP))
_ITERATORS = ("adopt", "explicit_udp")
_MAPS = (
    "definitions",
    "port_words",
    "sockets",
    "bound",
    "handed",
    "settings",
    "pools",
    "events",
    "listen_counters",
)


def load(pins: Path) -> Object:
    """With as many of the iterators as the kernel takes."""
    attempts = [(), _ITERATORS[:1], _ITERATORS]
    refusal: KernelError | None = None
    for skipped in attempts:
        object_ = Object.open(
            loader.object_path("listen"),
            rodata={"netns_cookie": netns_cookie()},
            pins=pins,
            skip_programs=skipped,
        )
        try:
            return object_.load()
        except KernelError as error:
            object_.close()
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def attach(object_: Object, cgroup: Path, pins: Path) -> dict[str, Link]:
    cgroup_fd, netns = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), current_netns()
    try:
        links = {
            name: loader.attach(object_.program(name), cgroup_fd, kind, _link_pin(pins, name))
            for name, kind in _CGROUP.items()
        }
        lookup = object_.program(_LOOKUP)
        pin = _link_pin(pins, _LOOKUP)
        links[_LOOKUP] = loader.attach(lookup, netns, AttachType.SK_LOOKUP, pin)
        return links
    finally:
        os.close(cgroup_fd)
        os.close(netns)


def detach(pins: Path) -> None:
    """Ends the attachments and removes the maps' pins. Absent: success."""
    for name in (*_CGROUP, _LOOKUP):
        loader.detach(_link_pin(pins, name))
    loader.unpin(pins, _MAPS)


def iterate(object_: Object, name: str, size: int = -1) -> bytes:
    """What the iterator wrote, `size` bytes at most; nothing where the kernel does not load it."""
    program = _optional(object_, name)
    if program is None:
        return b""
    link = Link.create(program, 0, AttachType.TRACE_ITER)
    try:
        return link.read(size)
    finally:
        link.close()


def _link_pin(pins: Path, program: str) -> Path:
    return pins / "links" / f"listen_{program}"


def _optional(object_: Object, name: str) -> Program | None:
    try:
        return object_.program(name)
    except KernelError:
        return None
