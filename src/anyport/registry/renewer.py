# SPDX-License-Identifier: Apache-2.0
"""The little of an etcd client that a thread without an event loop needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message

from anyport.errors import RegistryUnavailable
from anyport.registry.base import Put
from anyport.registry.channels import KEEP_ALIVE, Method, translate
from anyport.registry.endpoints import Endpoint
from anyport.registry.messages import etcd_pb2 as pb

_PUT = Method("/etcdserverpb.KV/Put", pb.PutResponse)

_R = TypeVar("_R", bound=Message)


class EtcdRenewer:
    """`registry.base.Renewer` with channels of its own, one an endpoint."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._channels = [(e.name, e.blocking_channel()) for e in endpoints]
        self._current = 0

    def keep_alive(self, lease: int, timeout: float) -> int:
        return int(self._call(KEEP_ALIVE, pb.LeaseKeepAliveRequest(ID=lease), timeout).TTL)

    def put(self, put: Put, timeout: float) -> None:
        request = pb.PutRequest(key=put.key.encode(), value=put.value, lease=put.lease)
        self._call(_PUT, request, timeout)

    def _call(self, method: Method[_R], request: Message, timeout: float) -> _R:
        """By the next endpoint, if this one does not answer."""
        name, channel = self._channels[self._current]
        send = channel.unary_unary(
            method.path, type(request).SerializeToString, method.response.FromString
        )
        try:
            answer: _R = send(request, timeout=timeout)
        except grpc.RpcError as error:
            self._current = (self._current + 1) % len(self._channels)
            # What a call raises that was sent is that call, too.
            raise translate(cast(grpc.Call, error), name) from None
        except ValueError:  # gRPC's way to say that `close` came first
            raise RegistryUnavailable(f"etcd at {name}: its channel is closed") from None
        return answer

    def close(self) -> None:
        for _, channel in self._channels:
            channel.close()
