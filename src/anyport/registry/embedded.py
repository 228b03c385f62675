# SPDX-License-Identifier: Apache-2.0
"""An etcd of our own: for one host without endpoints, and for the lab.

It outlives the daemon that started it, and the next daemon adopts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from anyport.errors import AnyportError, RegistryError
from anyport.registry.etcd import EtcdRegistry

START_SECONDS = 15.0
_RETRY_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class _Etcd:
    """What the state file says. `started`: field 22 of /proc/PID/stat, so that a pid that came
    round again is not taken for it. The ports stay the same for ever."""

    host: str
    client_port: int
    peer_port: int
    pid: int = 0
    started: str = ""

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.client_port}"

    @property
    def alive(self) -> bool:
        return self.pid != 0 and self.started == _started(self.pid)


async def start_or_adopt(data: Path, *, listen_host: str = "127.0.0.1") -> list[str]:
    """The endpoints of the etcd whose data is in `data`; starts it unless it runs.

    Raises AnyportError with the remedy if there is no etcd, or with the end of
    its log if it does not come up.
    """
    _private(data)
    etcd = _load(data) or _Etcd(listen_host, *_free_ports(listen_host))
    if not etcd.alive:
        etcd = _start(etcd, data)
        _save(etcd, data)
    await _answers(etcd, data)
    return [etcd.endpoint]


async def stop(data: Path) -> None:
    """Ends it politely and waits; the data stays. Not running: success."""
    etcd = _load(data)
    if etcd is None or not etcd.alive:
        return
    with suppress(ProcessLookupError):
        os.kill(etcd.pid, signal.SIGTERM)
    while etcd.alive:  # noqa: ASYNC110  # not a child of ours: there is no event to wait for
        await asyncio.sleep(_RETRY_SECONDS)


def _start(etcd: _Etcd, data: Path) -> _Etcd:
    binary = shutil.which("etcd")
    if binary is None:
        raise AnyportError(
            "no etcd: without registry.endpoints the daemon starts one of its own; "
            "apt-get install etcd-server, or name endpoints"
        )
    client, peer = etcd.endpoint, f"http://{etcd.host}:{etcd.peer_port}"
    with open(data / "etcd.log", "ab", opener=_opener) as log:
        process = subprocess.Popen(
            [
                binary,
                f"--data-dir={data / 'data'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                # Alone it has nobody to elect: the first put after 0.1 s, not 1 s.
                "--heartbeat-interval=10",
                "--election-timeout=50",
                # 65,536 listeners opening and closing leave a history.
                "--auto-compaction-mode=revision",
                "--auto-compaction-retention=10000",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    return _Etcd(
        etcd.host, etcd.client_port, etcd.peer_port, process.pid, _started(process.pid) or ""
    )


async def _answers(etcd: _Etcd, data: Path) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _healthy(etcd):
                if not etcd.alive:
                    raise AnyportError(f"the embedded etcd ended: {_tail(data)}")
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError:
        raise AnyportError(
            f"the embedded etcd does not answer at {etcd.endpoint}: {_tail(data)}"
        ) from None


async def _healthy(etcd: _Etcd) -> bool:
    registry = EtcdRegistry([etcd.endpoint], timeout=1.0)
    try:
        await registry.list("/anyport/health")
    except RegistryError:
        return False
    finally:
        await registry.close()
    return True


def _started(pid: int) -> str | None:
    """None: no such process, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _free_ports(host: str) -> tuple[int, int]:
    """Two that are free now, never etcd's usual 2379 and 2380: another etcd may come for those."""
    with socket.socket() as client, socket.socket() as peer:
        for probe in (client, peer):
            probe.bind((host, 0))
        return client.getsockname()[1], peer.getsockname()[1]


def _private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AnyportError(f"registry.data {directory}: {error.strerror}") from None


def _load(data: Path) -> _Etcd | None:
    try:
        return _Etcd(**json.loads((data / "etcd.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise AnyportError(f"{data / 'etcd.json'}: not readable as our state: {error}") from None


def _save(etcd: _Etcd, data: Path) -> None:
    new = data / "etcd.json.new"
    with open(new, "w", opener=_opener) as file:
        json.dump(asdict(etcd), file)
    new.rename(data / "etcd.json")


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _tail(data: Path) -> str:
    try:
        lines = (data / "etcd.log").read_text(errors="replace").splitlines()
    except OSError:
        return "it left no log"
    return lines[-1][:300] if lines else "it left no log"
