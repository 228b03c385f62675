# SPDX-License-Identifier: Apache-2.0
"""An etcd of our own: for one host without endpoints, and for the lab.

It outlives the daemon that started it, and the next daemon adopts it. It has
no TLS and no passwords: whoever reaches `listen_host` reads and writes all.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from anyport.errors import AnyportError, RegistryError
from anyport.registry.etcd import EtcdRegistry

START_SECONDS = 15.0
STOP_SECONDS = 5.0
_RETRY_SECONDS = 0.02

# Neither etcd's usual 2379 and 2380, for which another etcd may come, nor of
# Linux's default ephemeral range, where any program's connection could sit on
# one while our etcd is down.
_PORTS = range(23790, 24790)


@dataclass(frozen=True, slots=True)
class _Etcd:
    """What the state file says: ports for good, a process while it lives.

    `started`: field 22 of /proc/PID/stat, and `boot`: the kernel's boot_id, so
    that a pid that came round again is not taken for it.
    """

    host: str
    client_port: int
    peer_port: int
    token: str = ""
    pid: int = 0
    started: str = ""
    boot: str = ""

    @property
    def endpoint(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.client_port}"

    @property
    def alive(self) -> bool:
        return self.pid != 0 and self.boot == _boot() and self.started == _started(self.pid)


async def start_or_adopt(data: Path, *, listen_host: str = "127.0.0.1") -> list[str]:
    """The endpoints of the etcd whose data is in `data`; starts it unless it runs.

    `listen_host`: an address of this network namespace, for clients.
    Raises AnyportError with the remedy if there is no etcd, or with the end of
    its log if it does not come up.
    """
    _make_private(data)
    async with _locked(data):
        etcd = _load(data)
        if etcd is None or not await _answers(etcd, data):
            etcd = _start(_named(_place(etcd, listen_host), data), data)
            _save(etcd, data)
            if not await _answers(etcd, data):
                raise AnyportError(f"the embedded etcd ended: {_last_words(data)}")
    return [etcd.endpoint]


async def stop(data: Path) -> None:
    """Ends it politely and waits; the data stays. Not running: success."""
    etcd = _load(data)
    if etcd is None or not etcd.alive:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(etcd.pid, number)
        if await _ended(etcd):
            return
    raise AnyportError(f"the embedded etcd (pid {etcd.pid}) does not end")


def _place(old: _Etcd | None, host: str) -> _Etcd:
    """The ports of last time if they are still free: its clients have them."""
    if old is not None and _free(host, old.client_port) and _free("127.0.0.1", old.peer_port):
        return replace(old, host=host)
    client = next((port for port in _PORTS if _free(host, port)), None)
    peer = next((p for p in _PORTS if p != client and _free("127.0.0.1", p)), None)
    if client is None or peer is None:
        raise AnyportError(f"registry: no free port for etcd on {host} in {_PORTS}")
    return _Etcd(host, client, peer, old.token if old is not None else "")


def _named(etcd: _Etcd, data: Path) -> _Etcd:
    """A store that begins with nothing has a name of its own: its token is part of the cluster's
    id, by which nobody takes it for the one that was here."""
    if etcd.token and (data / "data").exists():
        return etcd
    return replace(etcd, token=secrets.token_hex(8))


def _start(etcd: _Etcd, data: Path) -> _Etcd:
    binary = shutil.which("etcd")
    if binary is None:
        raise AnyportError(
            "no etcd: without registry.endpoints the daemon starts one of its own; "
            "apt-get install etcd-server, or name endpoints"
        )
    log = data / "etcd.log"
    with suppress(FileNotFoundError):
        log.replace(data / "etcd.log.old")
    with open(log, "ab", opener=_private) as output:
        process = subprocess.Popen(
            [binary, *_arguments(etcd, data)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            umask=0o077,
            start_new_session=True,
            # etcd takes each of its options from ETCD_... too, which we did not set.
            env={name: value for name, value in os.environ.items() if name[:5] != "ETCD_"},
        )
    started = _started(process.pid) or ""
    return replace(etcd, pid=process.pid, started=started, boot=_boot())


def _arguments(etcd: _Etcd, data: Path) -> list[str]:
    peer = f"http://127.0.0.1:{etcd.peer_port}"
    return [
        f"--data-dir={data.absolute() / 'data'}",
        f"--listen-client-urls={etcd.endpoint}",
        f"--advertise-client-urls={etcd.endpoint}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--initial-cluster-token={etcd.token}",
        # Alone it has nobody to elect: the first put after 0.1 s, not 1 s.
        "--heartbeat-interval=10",
        "--election-timeout=50",
        # 65,536 listeners opening and closing leave a history.
        "--auto-compaction-mode=revision",
        "--auto-compaction-retention=10000",
        "--logger=zap",
        "--log-level=warn",
    ]


async def _answers(etcd: _Etcd, data: Path) -> bool:
    """Waits until it does; False if it has ended. Raises AnyportError after START_SECONDS."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while etcd.alive:
                if await _healthy(etcd):
                    return True
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError:
        raise AnyportError(
            f"the embedded etcd (pid {etcd.pid}) does not answer at {etcd.endpoint}: "
            f"{_last_words(data)}"
        ) from None
    return False


async def _healthy(etcd: _Etcd) -> bool:
    if not await _accepts(etcd):  # before gRPC, which would back off
        return False
    registry = EtcdRegistry([etcd.endpoint], timeout=1.0)
    try:
        await registry.list("/anyport/health")
    except RegistryError:
        return False
    finally:
        await registry.close()
    return True


async def _accepts(etcd: _Etcd) -> bool:
    try:
        _, writer = await asyncio.open_connection(etcd.host, etcd.client_port)
    except OSError:
        return False
    writer.close()
    return True


async def _ended(etcd: _Etcd) -> bool:
    """Whether it ends within STOP_SECONDS."""
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            # It need not be a child of ours, and no event tells of others' ends.
            while etcd.alive:  # noqa: ASYNC110
                await asyncio.sleep(_RETRY_SECONDS)
    return not etcd.alive


@asynccontextmanager
async def _locked(data: Path) -> AsyncIterator[None]:
    """Two daemons that start at once must not start two etcds on one directory."""
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _started(pid: int) -> str | None:
    """None: no such process, or a zombie.

    A killed one whose first thread is a zombie and others are not still has its ports.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, threads = fields[0], int(fields[17])
    return None if state == "Z" and threads <= 1 else fields[19]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError:
        return False
    return True


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
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
    with open(new, "w", opener=_private) as file:
        json.dump(asdict(etcd), file)
    new.rename(data / "etcd.json")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _last_words(data: Path) -> str:
    """The last line of its log, without what zap puts around the message."""
    try:
        line = (data / "etcd.log").read_text(errors="replace").splitlines()[-1]
    except (OSError, IndexError):
        return "it left no log"
    try:
        said = json.loads(line)
        return ": ".join(str(said[name]) for name in ("msg", "error") if name in said)
    except (ValueError, TypeError):
        return line[:300]
