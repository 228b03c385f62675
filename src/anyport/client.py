# SPDX-License-Identifier: Apache-2.0
"""Asks the local daemon: HTTP/1.1 with JSON over its unix socket (anyport.daemon answers)."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from anyport.errors import AnyportError, DaemonUnavailable, UsageError

_WAIT_SECONDS = 30.0


class Client:
    """Every call raises DaemonUnavailable if nothing answers on `path`.

    What the daemon refuses is raised as it says: UsageError or AnyportError.
    """

    def __init__(self, path: str | Path, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._path = str(path)
        self._wait_seconds = wait_seconds

    def get(self, noun: str, **only: str | None) -> Any:
        """`GET /v1/<noun>`; those of `only` that are not None become the query."""
        query = urlencode({name: value for name, value in only.items() if value is not None})
        return self._request("GET", f"/v1/{noun}" + (f"?{query}" if query else ""))

    def vip(self, vip: str) -> Any:
        return self._request("GET", f"/v1/vips/{quote(vip, safe=':')}")

    def add_vip(self, vip: str, **fields: Any) -> Any:
        return self._request("POST", "/v1/vips", {"vip": vip, **fields})

    def set_vip(self, vip: str, **fields: Any) -> Any:
        return self._request("PATCH", f"/v1/vips/{quote(vip, safe=':')}", fields)

    def delete_vip(self, vip: str) -> Any:
        return self._request("DELETE", f"/v1/vips/{quote(vip, safe=':')}")

    def impact(self, vip: str) -> Any:
        """What `delete_vip` ends."""
        return self._request("GET", f"/v1/vips/{quote(vip, safe=':')}/impact")

    def drain(self, host: str, anyway: bool = False) -> Any:
        query = "?anyway=yes" if anyway else ""
        return self._request("PUT", f"/v1/drains/{quote(host, safe='')}{query}")

    def resume(self, host: str) -> Any:
        return self._request("DELETE", f"/v1/drains/{quote(host, safe='')}")

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        connection = _UnixConnection(self._path, self._wait_seconds)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DaemonUnavailable(_unavailable(self._path, error)) from None
        finally:
            connection.close()
        return _answer(status, content, self._path)


class _UnixConnection(http.client.HTTPConnection):
    """http.client over a pathname unix socket."""

    def __init__(self, path: str, wait_seconds: float) -> None:
        super().__init__("localhost")
        self._path = path
        self._wait_seconds = wait_seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._wait_seconds)
        self.sock.connect(self._path)


def _answer(status: int, content: bytes, path: str) -> Any:
    try:
        answer = json.loads(content) if content else None
    except ValueError:
        raise DaemonUnavailable(f"what answers on {path} is no anyport daemon") from None
    if status < 400:
        return answer
    if not isinstance(answer, dict) or "error" not in answer:
        raise AnyportError(f"the daemon on {path} answered with status {status}; see its log")
    raise (UsageError if answer.get("exit") == 2 else AnyportError)(answer["error"])


def _unavailable(path: str, error: Exception) -> str:
    match error:
        case PermissionError():
            return f"no permission for the daemon's socket {path}: be root"
        case FileNotFoundError() | ConnectionRefusedError():
            return (
                f"no daemon answers on {path}: start `anyport run`, "
                "or name its configuration with --config"
            )
        case TimeoutError():
            return f"the daemon on {path} does not answer; see its log"
    return f"the daemon on {path} broke off: {error or type(error).__name__}"
