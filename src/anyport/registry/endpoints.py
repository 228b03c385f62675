# SPDX-License-Identifier: Apache-2.0
"""The endpoints of one etcd cluster: what they are called, and gRPC channels to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from anyport.errors import ConfigError

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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member. `credentials` None: without TLS."""

    name: str
    """host:port"""
    credentials: grpc.ChannelCredentials | None = None

    def channel(self) -> grpc.aio.Channel:
        """Of the running event loop."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.name, options=_OPTIONS)
        return grpc.aio.secure_channel(self.name, self.credentials, options=_OPTIONS)

    def blocking_channel(self) -> grpc.Channel:
        """Of any thread. Every grpc.aio channel of a process hangs on one poller, which any of
        its event loops may have to wait for."""
        if self.credentials is None:
            return grpc.insecure_channel(self.name, options=_OPTIONS)
        return grpc.secure_channel(self.name, self.credentials, options=_OPTIONS)


def parse_endpoints(
    texts: Sequence[str], *, ca: Path | None, cert: Path | None, key: Path | None
) -> tuple[Endpoint, ...]:
    """`[http[s]://]HOST:PORT` each; TLS if one says https or `ca` or `cert` is given (PEM files).

    Raises ConfigError.
    """
    parsed = [_parse(text, tls=bool(ca or cert)) for text in texts]
    if not parsed:
        raise ConfigError("registry: no endpoints")
    secure = any(tls for _, tls in parsed)
    credentials = _credentials(ca, cert, key) if secure else None
    return tuple(Endpoint(name, credentials if tls else None) for name, tls in parsed)


def _parse(text: str, *, tls: bool) -> tuple[str, bool]:
    scheme, separator, rest = text.rpartition("://")
    name = rest.rstrip("/")
    if (separator and scheme not in ("http", "https")) or ":" not in name or "/" in name:
        raise ConfigError(f"registry endpoint {text!r}: allowed is [http[s]://]HOST:PORT")
    if scheme == "http" and tls:
        raise ConfigError(f"registry endpoint {text!r}: http, although ca or cert is set")
    return name, tls or scheme == "https"


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
