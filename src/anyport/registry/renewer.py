# SPDX-License-Identifier: Apache-2.0
"""The little of an etcd client that a thread without an event loop needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc

from anyport.errors import RegistryUnavailable
from anyport.registry.channels import KEEP_ALIVE, translate
from anyport.registry.endpoints import Endpoint
from anyport.registry.messages import etcd_pb2 as pb


class EtcdRenewer:
    """`registry.base.Renewer` with channels of its own, one an endpoint."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._channels = [(e.name, e.blocking_channel()) for e in endpoints]
        self._current = 0

    def keep_alive(self, lease: int, timeout: float) -> int:
        name, channel = self._channels[self._current]
        send = channel.unary_unary(
            KEEP_ALIVE.path,
            pb.LeaseKeepAliveRequest.SerializeToString,
            KEEP_ALIVE.response.FromString,
        )
        try:
            answer = send(pb.LeaseKeepAliveRequest(ID=lease), timeout=timeout)
        except grpc.RpcError as error:
            self._current = (self._current + 1) % len(self._channels)
            # What a call raises that was sent is that call, too.
            raise translate(cast(grpc.Call, error), name) from None
        except ValueError:  # gRPC's way to say that `close` came first
            raise RegistryUnavailable(f"etcd at {name}: its channel is closed") from None
        return int(answer.TTL)

    def close(self) -> None:
        for _, channel in self._channels:
            channel.close()
