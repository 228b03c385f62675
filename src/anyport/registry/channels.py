# SPDX-License-Identifier: Apache-2.0
"""gRPC channels to the endpoints of one etcd cluster: TLS, failover, deadlines, errors.

One channel an endpoint, one in use at a time, and our own rotation. gRPC could
take all endpoints as one `ipv4:a,b` target with round_robin, but that takes no
host names, checks every certificate against one name, and would keep sending
each n-th call to a member that accepts connections but no longer answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from anyport.errors import (
    Compacted,
    ConfigError,
    LeaseGone,
    RegistryError,
    RegistryUnavailable,
)

RETRY_PAUSE = 0.05
"""Seconds between attempts: above the cost of one, below what a user notices."""

_MAX_RECEIVE = 96 << 20
"""Bytes: a page of 1,000 values of 64 KiB each (registry.values) fits; gRPC's default is 4 MB."""

_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # in fact the time a connection attempt may take
    ("grpc.max_reconnect_backoff_ms", 1000),
    # etcd closes connections that ping more often than every 5 s, or without a call.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", _MAX_RECEIVE),
    # A client of its own backs off on its own; nor does etcd stand behind an HTTP proxy.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
]

_UNAVAILABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


_R = TypeVar("_R", bound=Message)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Method(Generic[_R]):
    """One of etcd's methods: its path and the type of its answer."""

    path: str
    response: type[_R]


@dataclass(slots=True)
class _Endpoint:
    name: str
    """host:port"""
    tls: bool
    channel: grpc.aio.Channel | None = None


class Channels:
    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        timeout: float,
    ) -> None:
        self.timeout = timeout
        self._endpoints = [_parse(text, tls=bool(ca or cert)) for text in endpoints]
        if not self._endpoints:
            raise ConfigError("registry: no endpoints")
        tls = any(endpoint.tls for endpoint in self._endpoints)
        self._credentials = _credentials(ca, cert, key) if tls else None
        self._current = 0

    @property
    def endpoint(self) -> str:
        """The one in use, `host:port`."""
        return self._endpoints[self._current].name

    def channel(self) -> grpc.aio.Channel:
        """The channel in use. Made at first use: gRPC ties one to the running event loop."""
        endpoint = self._endpoints[self._current]
        if endpoint.channel is None:
            endpoint.channel = self._open(endpoint)
        return endpoint.channel

    def failed(self, endpoint: str) -> None:
        """Go on to the next endpoint, unless another call did so already."""
        if endpoint == self.endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

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
        share = self.timeout / len(self._endpoints)
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
        for endpoint in self._endpoints:
            if endpoint.channel is not None:
                await endpoint.channel.close(None)

    def _open(self, endpoint: _Endpoint) -> grpc.aio.Channel:
        if not endpoint.tls or self._credentials is None:
            return grpc.aio.insecure_channel(endpoint.name, options=_OPTIONS)
        return grpc.aio.secure_channel(endpoint.name, self._credentials, options=_OPTIONS)


def translate(error: grpc.aio.AioRpcError, endpoint: str) -> RegistryError:
    """Our error for gRPC's; one line that names the endpoint."""
    code = error.code()
    what = f"etcd at {endpoint}: {error.details() or code.name}"
    if code in _UNAVAILABLE:
        return RegistryUnavailable(what)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "too many requests" in what:
        return RegistryUnavailable(what)
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return Compacted(what)
    if code is grpc.StatusCode.NOT_FOUND:
        return LeaseGone(what)
    return RegistryError(what)


def _parse(text: str, *, tls: bool) -> _Endpoint:
    scheme, separator, rest = text.rpartition("://")
    name = rest.rstrip("/")
    if (separator and scheme not in ("http", "https")) or ":" not in name or "/" in name:
        raise ConfigError(f"registry endpoint {text!r}: allowed is [http[s]://]HOST:PORT")
    if scheme == "http" and tls:
        raise ConfigError(f"registry endpoint {text!r}: http, although ca or cert is set")
    return _Endpoint(name, tls or scheme == "https")


def _credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    if (cert is None) != (key is None):
        raise ConfigError("registry: cert and key are set together or not at all")
    return grpc.ssl_channel_credentials(
        root_certificates=_read(ca), private_key=_read(key), certificate_chain=_read(cert)
    )


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"registry: {path}: {error.strerror}") from None
