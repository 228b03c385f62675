# SPDX-License-Identifier: Apache-2.0
"""The trial bind: whether a port is free for certain."""

from __future__ import annotations

import errno
import socket

from anyport.errors import KernelError
from anyport.kernel.abi import TRIAL_MARK
from anyport.model import Protocol
from anyport.model.definition import Address

_SO_MARK = 36  # <asm-generic/socket.h>
_FREEBIND = {
    4: (socket.AF_INET, socket.IPPROTO_IP, 15),  # IP_FREEBIND, <linux/in.h>
    6: (socket.AF_INET6, socket.IPPROTO_IPV6, 78),  # IPV6_FREEBIND, <linux/in6.h>
}
_KIND = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


def is_bindable(vip: Address, protocol: Protocol, port: int) -> bool:
    """Whether no socket in any state is left that keeps VIP:port, wildcards included.

    Binds without SO_REUSEADDR: TIME_WAIT and live children are in the way too.
    sock_diag would not do: before Linux 6.8 it shows no TCP socket that is
    bound and does not listen. The mark, which takes CAP_NET_ADMIN, exempts the
    socket from what listen.bpf.c refuses and sees; unlike a process id it
    holds in containers and after a restart. FREEBIND: the VIP need not be
    there yet. Raises KernelError for any other refusal.
    """
    family, level, freebind = _FREEBIND[vip.version]
    with socket.socket(family, _KIND[protocol] | socket.SOCK_CLOEXEC) as trial:
        try:
            trial.setsockopt(socket.SOL_SOCKET, _SO_MARK, TRIAL_MARK)
            trial.setsockopt(level, freebind, 1)
            trial.bind((str(vip), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise KernelError(f"trial bind to {vip} port {port}", error.errno or 0) from error
    return True
