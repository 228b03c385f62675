# SPDX-License-Identifier: Apache-2.0
"""What a network driver tells by ioctl; /sys is often another network namespace's."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from anyport.errors import KernelError

_SIOCETHTOOL = 0x8946  # <linux/sockios.h>
_ETHTOOL_GDRVINFO = 3  # <linux/ethtool.h>
_DRVINFO_BYTES = 196
_NAME = slice(4, 36)  # ethtool_drvinfo.driver


def driver(interface: str) -> str:
    """`veth`, `virtio_net`, `ixgbe`. Raises KernelError: no such interface, or it tells none."""
    info = array.array("B", struct.pack("=I", _ETHTOOL_GDRVINFO).ljust(_DRVINFO_BYTES, b"\0"))
    address, _ = info.buffer_info()
    request = struct.pack("16sP", interface.encode(), address).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            fcntl.ioctl(handle, _SIOCETHTOOL, request)
        except OSError as error:
            raise KernelError(f"interface {interface}: driver", error.errno or 0) from None
    return info.tobytes()[_NAME].partition(b"\0")[0].decode(errors="replace")
