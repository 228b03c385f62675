# SPDX-License-Identifier: Apache-2.0
"""ICMP and ICMPv6 about connections by the VIP, with a client behind a router (RFC 1191, 8201)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.lab_cluster import LabCluster, Program, lab_cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
TURNS = "10.77.0.81"
TURNS6 = "fd77::81"
VIPS = [TURNS, TURNS6]
FAR = {TURNS: "10.78.0.2", TURNS6: "fd78::2"}
SMALL = 1400  # bytes, the MTU between the router and the far client

TIME_EXCEEDED = {TURNS: [11, 0], TURNS6: [3, 0]}
UNREACHABLE_PORT = {TURNS: [3, 3], TURNS6: [1, 4]}


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    """By turns, so that no error finds its target by the hash but by chance."""
    with lab_cluster("icmp", len(HOSTS), {"vip": TURNS, "method": "round-robin"}) as cluster:
        cluster.lab.client("host1").add_vip(TURNS6, method="round-robin")
        cluster.await_ready()
        yield cluster


@pytest.fixture(scope="module")
def far(lab: LabCluster) -> Iterator[Program]:
    """A client behind the node `client`, which routes. It takes packets as long as any, and says
    so to its peers, but its link does not: a small MTU that only the router knows of."""
    program = Program(lab.lab, "client", "unshare", "--net")
    program.reset()  # it runs: so it is in its namespace
    lab.run("client", "ip", "link", "add", "far", "type", "veth", "peer", "near")
    lab.run("client", "ip", "link", "set", "near", "netns", str(program.pid))
    for words in (
        f"link set far mtu {SMALL} up",
        "address add 10.78.0.1/24 dev far",
        "address add fd78::1/64 dev far nodad",
    ):
        lab.run("client", "ip", *words.split())
    lab.run("client", "sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for words in (
        "link set lo up",
        "link set near up",
        "address add 10.78.0.2/24 dev near",
        "address add fd78::2/64 dev near nodad",
        f"route add default via 10.78.0.1 mtu {SMALL} advmss 1460",
        f"route add default via fd78::1 mtu {SMALL} advmss 1440",
    ):
        lab.run("client", "nsenter", f"--net=/proc/{program.pid}/ns/net", "ip", *words.split())
    router = lab.lab.node("client")
    for host in HOSTS:
        lab.run(host, "ip", "route", "add", "10.78.0.0/24", "via", router.address)
        lab.run(host, "ip", "route", "add", "fd78::/64", "via", router.address6)
    yield program
    program.kill()


@pytest.fixture
def cluster(lab: LabCluster, far: Program) -> Iterator[LabCluster]:
    yield lab
    far.reset()
    lab.reset()


@pytest.mark.parametrize("vip", VIPS)
def test_the_distributor_answers_echo_requests(cluster: LabCluster, far: Program, vip: str) -> None:
    """From the VIP; also those that come in fragments."""
    echo_reply = b"\x81" if ":" in vip else b"\x00"
    offset = 54 if ":" in vip else 34
    [wire] = cluster.client.do("wire", interface="eth0")
    assert far.do("ping", address=vip) == vip
    while True:
        frame = bytes.fromhex(cluster.client.do("frame", number=wire))
        if frame[offset : offset + 1] == echo_reply and frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
            break
    assert frame[6:12] == cluster.mac(cluster.distributor(vip))
    assert cluster.client.do("ping", address=vip, length=4000) == vip


def path_mtu(cluster: LabCluster, host: str, vip: str) -> int:
    """What the host knows of the way to the far client."""
    words = cluster.run(host, "ip", "route", "get", FAR[vip], "from", vip).split()
    return int(words[words.index("mtu") + 1]) if "mtu" in words else 1500


@pytest.mark.parametrize("vip", VIPS)
def test_every_target_learns_the_path_mtu(cluster: LabCluster, far: Program, vip: str) -> None:
    """Its segments are too big for the client's link: it hears so, and all of the bytes arrive."""
    listeners = {host: cluster[host].listen(vip, 81, quiet=True) for host in HOSTS}
    cluster.await_targets(81, set(HOSTS), vip=vip)
    clients = {opened.port: opened for opened in (far.connect_quietly(vip, 81) for _ in HOSTS)}
    for host, listener in listeners.items():
        assert path_mtu(cluster, host, vip) == 1500
        server = listener.accept()
        words = f"{host} " * 40_000
        server.program.begin("write", number=server.number, words=words)
        assert clients.pop(server.port).read(len(words)) == words
        server.program.end("write")
        assert path_mtu(cluster, host, vip) == SMALL


@pytest.mark.parametrize("vip", VIPS)
def test_big_uploads_pass(cluster: LabCluster, far: Program, vip: str) -> None:
    for host in HOSTS:
        cluster[host].listen(vip, 82)
    cluster.await_targets(82, set(HOSTS), vip=vip)
    for _ in HOSTS:
        words = "up and down " * 3000
        assert far.connect(vip, 82).say(words) == words


@pytest.mark.parametrize("vip", VIPS)
def test_errors_about_datagrams_reach_their_sender(
    cluster: LabCluster, far: Program, vip: str
) -> None:
    """Time exceeded, as traceroute has it, and port unreachable, to the target of each flow."""
    servers = {host: cluster[host].bind_udp(vip, 5000) for host in HOSTS}
    cluster.await_targets(5000, set(HOSTS), "udp", vip)
    for source in range(34000, 34003):
        [host] = far.ask_udp(vip, 5000, source=source)  # its socket is closed again
        probe = {"number": servers.pop(host).number, "address": FAR[vip], "port": source}
        assert cluster[host].do("probe", ttl=1, **probe) == TIME_EXCEEDED[vip]
        assert cluster[host].do("probe", ttl=64, **probe) == UNREACHABLE_PORT[vip]
