# SPDX-License-Identifier: Apache-2.0
"""gather.bpf.c from the side of Python: this host's own connections to a VIP, as its sockets know.

Rows are `struct own_ipv4` or `struct own_ipv6`, as is the VIP: bytes that go through the registry
to the distributor's `enter` program, and that nothing here looks into.
"""

from __future__ import annotations

from ctypes import sizeof

from anyport.kernel import abi, loader
from anyport.kernel.libbpf import AttachType, Link, Object
from anyport.model.definition import Address


def row_bytes(vip: Address) -> int:
    """Of one connection to the VIP."""
    return sizeof(abi.OwnIpv4 if vip.version == 4 else abi.OwnIpv6)


class OwnConnections:
    """Of the calling thread's network namespace. One dump at a time."""

    def __init__(self) -> None:
        """Raises KernelError."""
        self._object = Object.open(loader.object_path("gather"))
        try:
            self._object.load()
            self._asked = self._object.map("asked")
            self._link = Link.create(
                self._object.program("own_connections"), 0, AttachType.TRACE_ITER
            )
        except BaseException:
            self._object.close()
            raise

    def rows(self, vip: Address) -> bytes:
        """From handshakes under way to those that wait for a last ACK; not those in TIME_WAIT.

        Raises KernelError.
        """
        self._asked.update(bytes(4), abi.pack_address(vip))
        return self._link.read()

    def close(self) -> None:
        self._link.close()
        self._object.close()
