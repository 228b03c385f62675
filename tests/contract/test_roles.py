# SPDX-License-Identifier: Apache-2.0
"""`anyport registry init`: what etcd lets whom write, by client certificate."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from anyport.errors import RegistryRefused
from anyport.model import Protocol
from anyport.registry.base import Delete, Put, Unchanged
from anyport.registry.etcd import EtcdRegistry
from anyport.registry.keys import (
    PREFIX,
    CandidacyKey,
    ClaimKey,
    DefinitionKey,
    DistributingKey,
    HeartbeatKey,
    HostKey,
    Key,
    ListenerEntryKey,
    VoidKey,
)
from tests.contract.conftest import TIMEOUT
from tests.contract.etcd_server import EtcdServer
from tests.support.certificates import Certificates

pytestmark = pytest.mark.anyio

VIP = ip_address("192.0.2.80")
DEFINITION = str(DefinitionKey(VIP))

CONFIG = """
[host]
name = "a"
address = "192.0.2.1"
interface = "eth0"

[registry]
endpoints = ["{endpoint}"]
ca = "{ca}"
cert = "{cert}"
key = "{key}"
"""


class Cluster:
    """An etcd with TLS; `a` and `b` are hosts, `a` an operator too."""

    def __init__(self, server: EtcdServer, certificates: Certificates) -> None:
        self.server = server
        self.ca = certificates.directory / "ca.pem"
        self.certificates = certificates
        self.issued: dict[str, tuple[Path, Path]] = {}

    def identity(self, name: str) -> tuple[Path, Path]:
        if name not in self.issued:
            self.issued[name] = self.certificates.issue(name, self.ca)
        return self.issued[name]

    @asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[EtcdRegistry]:
        cert, key = self.identity(name)
        registry = EtcdRegistry([self.server.endpoint], ca=self.ca, cert=cert, key=key)
        yield registry
        await registry.close()

    def init(self, *words: str, identity: str = "root") -> subprocess.CompletedProcess[str]:
        cert, key = self.identity("a")
        config = self.certificates.directory / "anyport.toml"
        endpoint = self.server.endpoint
        config.write_text(CONFIG.format(endpoint=endpoint, ca=self.ca, cert=cert, key=key))
        cert, key = self.identity(identity)
        words = (*words, "--cert", str(cert), "--key", str(key), "--config", str(config))
        command = [sys.executable, "-m", "anyport.cli.main", "registry", "init", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def run_as_root(self, commands: Sequence[str]) -> None:
        """As somebody would who pastes them into a shell."""
        cert, key = self.identity("root")
        environment = {
            "PATH": "/usr/bin:/bin",
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": f"https://{self.server.endpoint}",
            "ETCDCTL_CACERT": str(self.ca),
            "ETCDCTL_CERT": str(cert),
            "ETCDCTL_KEY": str(key),
        }
        for command in commands:
            subprocess.run(command, shell=True, env=environment, check=True, capture_output=True)


@pytest.fixture
def without_roles(secure_server: EtcdServer, certificates: Certificates) -> Cluster:
    return Cluster(secure_server, certificates)


@pytest.fixture
def cluster(without_roles: Cluster) -> Cluster:
    done = without_roles.init("a", "b", "--operator", "a", "--apply", "--enable")
    assert done.returncode == 0, done.stderr
    return without_roles


def said_by(host: str) -> list[Key]:
    """One of each kind that a daemon writes."""
    return [
        HostKey(host),
        HeartbeatKey(host),
        ListenerEntryKey(host, VIP, Protocol.TCP, 80),
        ClaimKey(host, VIP, 40000),
        CandidacyKey(host, VIP),
        DistributingKey(host, VIP),
        VoidKey(host, VIP, 7),
    ]


async def test_a_host_writes_beneath_its_own_prefix_only(cluster: Cluster) -> None:
    async with cluster.client("b") as b:
        lease = await b.grant(30)
        for key in said_by("b"):
            await b.write([Put(str(key), b"", lease)], [Unchanged(str(key), 0)])
        for key in said_by("a"):
            with pytest.raises(RegistryRefused, match="permission denied"):
                await b.write([Put(str(key), b"", lease)])
            with pytest.raises(RegistryRefused):
                await b.write([Delete(str(key))])
        written = {entry.key for entry in (await b.list(PREFIX)).entries}
        assert written == {str(key) for key in said_by("b")}
        await b.revoke(lease)
        assert not (await b.list(PREFIX)).entries


async def test_a_prefix_that_begins_alike_is_another_s(cluster: Cluster) -> None:
    async with cluster.client("b") as b:
        with pytest.raises(RegistryRefused):
            await b.write([Put(str(HostKey("b2")), b"")])


async def test_only_operators_write_definitions(cluster: Cluster) -> None:
    async with cluster.client("a") as a, cluster.client("b") as b:
        await a.write([Put(DEFINITION, b"1")], [Unchanged(DEFINITION, 0)])
        for write in (Put(DEFINITION, b"2"), Delete(DEFINITION)):
            with pytest.raises(RegistryRefused):
                await b.write([write])
        [entry] = (await b.list(PREFIX)).entries
        assert (entry.key, entry.value) == (DEFINITION, b"1")


async def test_hosts_read_what_others_say_and_follow_it(cluster: Cluster) -> None:
    async with cluster.client("a") as a, cluster.client("b") as b:
        after = await a.write([Put(str(HostKey("a")), b"1")])
        async with aclosing(b.watch(PREFIX, after - 1)) as changes, asyncio.timeout(TIMEOUT):
            assert (await anext(changes)).revision == after
        claim = str(ClaimKey("a", VIP, 40000))
        made = await a.write([Put(claim, b"")])
        void = Put(str(VoidKey("b", VIP, made)), b"")
        await b.write([void], [Unchanged(claim, made), Unchanged(str(HostKey("c")), 0)])


async def test_a_certificate_of_nobody_is_refused(cluster: Cluster) -> None:
    async with cluster.client("stranger") as stranger:
        with pytest.raises(RegistryRefused):
            await stranger.list(PREFIX)


async def test_again_changes_nothing_and_adds_what_is_new(cluster: Cluster) -> None:
    for words in (["a", "b"], ["c"]):
        done = cluster.init(*words, "--apply", "--enable")
        assert done.returncode == 0, done.stderr
    async with cluster.client("a") as a, cluster.client("c") as c:
        await a.write([Put(DEFINITION, b"")])
        await c.write([Put(str(HostKey("c")), b"")])
        with pytest.raises(RegistryRefused):
            await c.write([Put(DEFINITION, b"")])


async def test_who_is_not_root_is_told_so(cluster: Cluster) -> None:
    done = cluster.init("a", "--apply", identity="a")
    assert done.returncode == 1
    assert "only 'root' changes users: name its certificate with --cert and --key" in done.stderr
    assert done.stderr.count("\n") == 2  # and the note on operators


async def test_without_enabling_nobody_is_locked_out(without_roles: Cluster) -> None:
    done = without_roles.init("a", "b", "--apply")
    assert (done.returncode, "--enable" in done.stdout) == (0, True), done.stderr
    async with without_roles.client("stranger") as stranger:
        await stranger.write([Put(str(HostKey("c")), b"")])
        # Hosts that have joined are known.
        shown = without_roles.init("--operator", "ops").stdout.splitlines()
    assert "etcdctl user grant-role c anyport-host-c" in shown
    assert "etcdctl user grant-role ops anyport-operator" in shown


async def test_what_is_printed_does_the_same(without_roles: Cluster) -> None:
    shown = without_roles.init("a", "b", "--operator", "a").stdout.splitlines()
    assert shown[-1] == "etcdctl auth enable"
    without_roles.run_as_root(shown)
    await test_only_operators_write_definitions(without_roles)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["root"], "etcd's name"),
        (["a/b"], "host name 'a/b'"),
        (["--operator", "a b", "a"], "host name 'a b'"),
        (["a", "--enable"], "--enable wants --apply"),
        ([], "no host is in the registry"),
    ],
)
async def test_words_that_are_off(without_roles: Cluster, words: list[str], said: str) -> None:
    done = without_roles.init(*words)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


async def test_nobody_ends_another_s_lease(cluster: Cluster) -> None:
    """To keep it alive is allowed to all: it is not the lease that says who lives."""
    key = str(HostKey("a"))
    async with cluster.client("a") as a, cluster.client("b") as b:
        lease = await a.grant(30)
        await a.write([Put(key, b"", lease)])
        with pytest.raises(RegistryRefused):
            await b.revoke(lease)
        assert [entry.key for entry in (await b.list(key)).entries] == [key]
        assert await b.keep_alive(lease) > 0
