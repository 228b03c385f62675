# SPDX-License-Identifier: Apache-2.0
"""Calls to one etcd cluster, whichever of its endpoints answers: failover, deadlines, errors.

One channel an endpoint, one in use at a time, and our own rotation. gRPC could
take all endpoints as one `ipv4:a,b` target with round_robin, but that takes no
host names, checks every certificate against one name, and would keep sending
each n-th call to a member that accepts connections but no longer answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from anyport.errors import (
    AnswerTooLarge,
    Compacted,
    LeaseGone,
    RegistryError,
    RegistryRefused,
    RegistryUnavailable,
)
from anyport.registry.endpoints import Endpoint
from anyport.registry.messages import etcd_pb2 as pb

RETRY_PAUSE = 0.05
"""Seconds between attempts: above the cost of one, below what a user notices."""

_UNAVAILABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}

_REFUSED = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
_NO_CERTIFICATE = "user name is empty"  # etcd asks for a user; it is an INVALID_ARGUMENT

_R = TypeVar("_R", bound=Message)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Method(Generic[_R]):
    """One of etcd's methods: its path and the type of its answer."""

    path: str
    response: type[_R]


# A stream in etcd's definition; a stream of one message is a call on the wire.
KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse)


class Channels:
    def __init__(self, endpoints: Sequence[Endpoint], timeout: float) -> None:
        self.timeout = timeout
        self.endpoints = endpoints
        self._open: dict[Endpoint, grpc.aio.Channel] = {}
        self._current = 0

    @property
    def endpoint(self) -> str:
        """The one in use, `host:port`."""
        return self.endpoints[self._current].name

    def channel(self) -> grpc.aio.Channel:
        """The channel in use. Made at first use: gRPC ties one to the running event loop."""
        endpoint = self.endpoints[self._current]
        if endpoint not in self._open:
            self._open[endpoint] = endpoint.channel()
        return self._open[endpoint]

    def failed(self, endpoint: str) -> None:
        """Go on to the next endpoint, unless another call did so already."""
        if endpoint == self.endpoint:
            self._current = (self._current + 1) % len(self.endpoints)

    async def call(self, method: Method[_R], request: Message, *, repeat: bool = True) -> _R:
        """The answer to one call, from whichever endpoint gives one before the timeout.

        `repeat` False sends it once at most. Raises RegistryUnavailable, or
        another RegistryError that names the endpoint and says why.
        """

        async def attempt(seconds: float) -> _R:
            send = self.channel().unary_unary(
                method.path, type(request).SerializeToString, method.response.FromString
            )
            endpoint = self.endpoint
            try:
                answer: _R = await send(request, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                raise translate(error, endpoint) from None
            return answer

        return await self.until_answered(attempt, repeat=repeat)

    async def until_answered(
        self, attempt: Callable[[float], Awaitable[_T]], *, repeat: bool = True
    ) -> _T:
        """Await `attempt(seconds)`, on one endpoint after another, until the timeout.

        A silent endpoint gets an equal share of it, so that each has its turn.
        An attempt raises RegistryUnavailable if another one may do better.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        share = self.timeout / len(self.endpoints)
        while True:
            endpoint = self.endpoint
            try:
                return await attempt(min(share, deadline - loop.time()))
            except RegistryUnavailable:
                self.failed(endpoint)
                if not repeat or loop.time() + RETRY_PAUSE >= deadline:
                    raise
            await asyncio.sleep(RETRY_PAUSE)

    async def close(self) -> None:
        for channel in self._open.values():
            await channel.close(None)


def translate(error: grpc.aio.AioRpcError | grpc.Call, endpoint: str) -> RegistryError:
    """Our error for gRPC's; one line that names the endpoint."""
    code = error.code()
    what = f"etcd at {endpoint}: {error.details() or code.name}"
    if code in _UNAVAILABLE:
        return RegistryUnavailable(what)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "too many requests" in what:
        return RegistryUnavailable(what)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in what:
        return AnswerTooLarge(what)
    if code in _REFUSED or _NO_CERTIFICATE in what:
        return RegistryRefused(what)
    if "revision of auth store is old" in what:  # its users were changed at this moment
        return RegistryUnavailable(what)
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return Compacted(what)
    if code is grpc.StatusCode.NOT_FOUND:
        return LeaseGone(what)
    return RegistryError(what)
