# SPDX-License-Identifier: Apache-2.0
"""Corner cases of TCP (RFC 9293), end to end: each connection has one target from SYN to RST."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from anyport.kernel.distribute import DistributorKernel
from tests.support.lab_cluster import VIP, LabCluster, Opened, eventually, lab_cluster
from tests.support.packets import ACK, ethernet, ipv4, tcp

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2")
TURNS = "10.77.0.81"
TURNS6 = "fd77::81"
CONNECTIONS = 1024


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    settings = {"tables": {"connections": CONNECTIONS}}
    with lab_cluster("tcp", len(HOSTS), settings=settings) as cluster:
        for vip in (TURNS, TURNS6):
            cluster.lab.client("host1").add_vip(vip, method="round-robin")
        cluster.await_ready()
        yield cluster


@pytest.fixture
def cluster(lab: LabCluster) -> Iterator[LabCluster]:
    yield lab
    lab.reset()


def listen(cluster: LabCluster, vip: str, port: int, **options: bool) -> dict[str, Opened]:
    """On every host; they are its targets."""
    opened = {host: cluster[host].listen(vip, port, **options) for host in HOSTS}
    cluster.await_targets(port, set(HOSTS), vip=vip)
    return opened


def turn(cluster: LabCluster, vip: str, port: int) -> str:
    """Whose turn it is next. Takes all the turns of one round."""
    order = cluster.client.fetch(vip, port, len(HOSTS))
    assert set(order) == set(HOSTS)
    return order[0]


@contextmanager
def dropped(cluster: LabCluster, node: str, hook: str, rule: str) -> Iterator[None]:
    """nft(8): what matches `rule` of what comes in at, or goes out of, the node."""
    chain = f"type filter hook {hook} priority 0; {rule} drop"
    table = f"table inet dropped {{ chain c {{ {chain}; }}; }}"
    cluster.run(node, "nft", table)
    try:
        yield
    finally:
        cluster.run(node, "nft", "delete table inet dropped")


def statistic(cluster: LabCluster, node: str, name: str) -> int:
    """Of /proc/net/netstat and /proc/net/snmp, in the node."""
    lines = cluster.run(node, "cat", "/proc/net/netstat", "/proc/net/snmp").splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        found = dict(zip(names.split(), values.split(), strict=True))
        if name in found:
            return int(found[name])
    raise KeyError(name)


def sockets(cluster: LabCluster, node: str, state: str, port: int) -> int:
    """How many TCP sockets with this local or remote port are in the state, as ss(8) has it."""
    shown = cluster.run(
        node, "ss", "-Htan", "state", state, f"( sport = {port} or dport = {port} )"
    )
    return len(shown.splitlines())


def accepted(cluster: LabCluster, port: int) -> list[tuple[Opened, Opened]]:
    """Both ends of connections, the client's and the server's: so many by turns that no later
    packet of all of them goes right by chance."""
    listeners = listen(cluster, TURNS, port, quiet=True)
    opened = [cluster.client.connect_quietly(TURNS, port) for _ in range(8)]
    near = {connection.port: connection for connection in opened}
    far = [listener.accept() for listener in listeners.values() for _ in range(4)]
    return [(near[connection.port], connection) for connection in far]


def exchange(near: Opened, far: Opened) -> None:
    near.write("question")
    assert far.read(8) == "question"
    far.write("answer")
    assert near.read(6) == "answer"


# ---- opening ----


@pytest.mark.parametrize("vip", [TURNS, TURNS6])
def test_a_syn_sent_again_goes_where_the_first_went(cluster: LabCluster, vip: str) -> None:
    """The answer to the first is lost. It is nobody else's turn meanwhile."""
    listen(cluster, vip, 80)
    first = turn(cluster, vip, 80)
    before = statistic(cluster, "client", "TCPSynRetrans")
    one_packet = "tcp sport 80 tcp flags & (syn | ack) == syn | ack quota until 100 bytes"
    with dropped(cluster, "client", "input", one_packet):
        assert cluster.client.connect(vip, 80).greeting == first
    assert statistic(cluster, "client", "TCPSynRetrans") > before
    assert turn(cluster, vip, 80) != first


@pytest.mark.parametrize("vip", [TURNS, TURNS6])
def test_the_same_port_again_while_the_target_waits(cluster: LabCluster, vip: str) -> None:
    """TIME_WAIT at the target, as it closed first: it takes the new connection (RFC 6191)."""
    listeners = listen(cluster, vip, 81, quiet=True)
    near = cluster.client.connect_quietly(vip, 81)
    [host] = [host for host in HOSTS if sockets(cluster, host, "established", 81)]
    for _ in range(3):
        far = listeners[host].accept()
        assert far.port == near.port
        far.close()
        assert near.read(1) == ""
        near.close()
        eventually(lambda: sockets(cluster, host, "time-wait", 81), "TIME_WAIT at the target")
        near = cluster.client.connect_quietly(vip, 81, near.port)
    exchange(near, listeners[host].accept())


@pytest.mark.parametrize("vip", [TURNS, TURNS6])
def test_a_client_that_forgot_its_connection_connects_again(cluster: LabCluster, vip: str) -> None:
    """From the same port: the target challenges the SYN (RFC 5961, 4), is reset, and accepts."""
    listen(cluster, vip, 82)
    connection = cluster.client.connect(vip, 82)
    with dropped(cluster, "client", "output", "tcp dport 82"):
        connection.abort()
    again = cluster.client.connect(vip, 82, source=connection.port)
    assert again.greeting == connection.greeting
    assert again.say("anew") == "anew"
    assert turn(cluster, vip, 82) != connection.greeting


def test_syn_cookies(cluster: LabCluster) -> None:
    """net.ipv4.tcp_syncookies=2: the target remembers no SYN, all it knows comes with the ACK."""
    listen(cluster, TURNS, 83)
    for host in HOSTS:
        cluster.run(host, "sysctl", "-q", "net.ipv4.tcp_syncookies=2")
    before = statistic(cluster, "host2", "SyncookiesRecv")
    try:
        order = cluster.client.fetch(TURNS, 83, 8)
    finally:
        for host in HOSTS:
            cluster.run(host, "sysctl", "-q", "net.ipv4.tcp_syncookies=1")
    assert order == order[:2] * 4
    assert statistic(cluster, "host2", "SyncookiesRecv") == before + 4


def test_data_in_the_syn(cluster: LabCluster) -> None:
    """TCP Fast Open: a cookie is good at every target if all have the same key."""
    for node in (*HOSTS, "client"):
        key = "net.ipv4.tcp_fastopen_key=00112233-44556677-8899aabb-ccddeeff"
        cluster.run(node, "sysctl", "-q", "net.ipv4.tcp_fastopen=1027", key)  # listeners: all
    listen(cluster, TURNS, 84)
    opened = [cluster.client.connect_fast(TURNS, 84, "early\n") for _ in range(7)]
    assert [c.greeting for c in opened] == [opened[0].greeting, opened[1].greeting] * 3 + [
        opened[0].greeting
    ]
    assert [c.read(6) for c in opened] == ["early\n"] * 7
    assert statistic(cluster, "client", "TCPFastOpenActive") == 6
    assert sum(statistic(cluster, host, "TCPFastOpenPassive") for host in HOSTS) == 6


@pytest.mark.parametrize("client_mptcp", [False, True])
def test_mptcp_in_turns(cluster: LabCluster, client_mptcp: bool) -> None:
    for host in HOSTS:
        cluster[host].listen(TURNS, 85, mptcp=True)
    cluster.await_targets(85, set(HOSTS), vip=TURNS)
    connections = [cluster.client.connect(TURNS, 85, mptcp=client_mptcp) for _ in range(4)]
    assert {c.greeting for c in connections} == set(HOSTS)
    assert [c.say("words") for c in connections * 2] == ["words"] * 8


# ---- closing ----


def test_both_close_at_once(cluster: LabCluster) -> None:
    """Neither FIN is answered before the other is sent (RFC 9293, figure 13)."""
    pairs = accepted(cluster, 90)
    with dropped(cluster, "client", "output", "tcp dport 90"):
        for near, far in pairs:
            near.finish()
            far.finish()
        eventually(lambda: sockets(cluster, "client", "closing", 90) == 8, "CLOSING at the client")
        assert [sockets(cluster, host, "fin-wait-1", 90) for host in HOSTS] == [4, 4]
    for near, far in pairs:
        assert (near.read(1), far.read(1)) == ("", "")
    waiting = {"client": 8, "host1": 4, "host2": 4}
    eventually(
        lambda: {node: sockets(cluster, node, "time-wait", 90) for node in waiting} == waiting,
        "the end at either side",
    )


@pytest.mark.parametrize("closes_first", [0, 1], ids=["client", "target"])
def test_half_closed_either_way(cluster: LabCluster, closes_first: int) -> None:
    for ends in accepted(cluster, 91):
        closed, talking = ends[closes_first], ends[1 - closes_first]
        closed.finish()
        assert talking.read(1) == ""
        for _ in range(3):
            talking.write("more" * 5000)
            assert closed.read(20000) == "more" * 5000
        talking.close()
        assert closed.read(1) == ""


@pytest.mark.parametrize("resets", [0, 1], ids=["client", "target"])
def test_reset_by_either_side(cluster: LabCluster, resets: int) -> None:
    """The other hears of it, and the same client port connects again at once."""
    for ends in accepted(cluster, 92):
        exchange(*ends)
        ends[resets].abort()
        with pytest.raises(ConnectionResetError):
            ends[1 - resets].read(1)
        ends[1 - resets].close()
        cluster.client.connect_quietly(TURNS, 92, ends[0].port)


# ---- what the distributor does not know ----


def forget_all(cluster: LabCluster) -> None:
    """The distributor's table, as if it had just taken over."""
    pins = cluster.lab.node(cluster.distributor()).pins
    kernel = DistributorKernel.load(1, pins, CONNECTIONS, hash_key=0)
    try:
        assert kernel.forget_connections(range(64))
    finally:
        kernel.close()


def test_what_is_not_remembered_goes_where_the_hash_says(cluster: LabCluster) -> None:
    listen(cluster, VIP, 95)
    connections = [cluster.client.connect(VIP, 95) for _ in range(20)]
    assert {c.greeting for c in connections} == set(HOSTS)
    forget_all(cluster)
    assert [c.say("still there") for c in connections] == ["still there"] * 20


def test_a_stray_segment_takes_no_turn(cluster: LabCluster) -> None:
    """Of connections that nobody knows: the turns go on as if none had come."""
    listen(cluster, TURNS, 96)
    first = turn(cluster, TURNS, 96)
    distributor = cluster.distributor(TURNS)
    client, vip = IPv4Address(cluster.address("client")), IPv4Address(TURNS)
    before = cluster.packets(distributor, "hashed")
    [wire] = cluster.client.do("wire", interface="eth0")
    for port in range(20000, 20003):
        packet = ipv4(client, vip, 6, tcp(port, 96, ACK))
        frame = ethernet(cluster.mac(distributor), cluster.mac("client"), 0x0800, packet)
        cluster.client.do("send", number=wire, frame=frame.hex())
    eventually(
        lambda: cluster.packets(distributor, "hashed") == before + 3, "the segments to be counted"
    )
    assert turn(cluster, TURNS, 96) == first


# ---- the port's route changes ----


def test_a_listener_closes_and_another_opens_elsewhere(cluster: LabCluster) -> None:
    """Of the only target; by either VIP of turns. Its connections live on, new ones move."""
    for vip in (TURNS, TURNS6):
        opened = cluster["host1"].listen(vip, 97)
        cluster.await_targets(97, {"host1"}, vip=vip)
        connections = [cluster.client.connect(vip, 97) for _ in range(4)]
        cluster["host2"].listen(vip, 97)
        opened.close()
        cluster.await_targets(97, {"host2"}, vip=vip)
        assert [c.say("old") for c in connections] == ["old"] * 4
        assert cluster.client.fetch(vip, 97, 4) == ["host2"] * 4
        assert [c.say("old") for c in connections] == ["old"] * 4


def route(cluster: LabCluster, port: int) -> str:
    [row] = [row for row in cluster.noun("ports", vip=VIP) if row["port"] == port]
    return str(row["route"])


def test_unique_then_distributed_then_unique(cluster: LabCluster) -> None:
    """Its owner's port is enumerated meanwhile: old connections keep their hosts all the time."""
    operator = cluster.lab.client("host1")
    opened = cluster["host1"].listen(VIP)
    port = opened.port
    cluster.await_targets(port, {"host1"})
    assert route(cluster, port) == "unique"
    connections = [cluster.client.connect(VIP, port) for _ in range(10)]
    try:
        operator.set_vip(VIP, ports=f"{port}/tcp")
        cluster["host2"].listen("0.0.0.0", port)
        cluster.await_targets(port, set(HOSTS))
        assert route(cluster, port) == "distributed"
        connections += [cluster.client.connect(VIP, port) for _ in range(20)]
        assert {c.greeting for c in connections} == set(HOSTS)
        assert [c.say("1") for c in connections] == ["1"] * 30
    finally:
        operator.set_vip(VIP, ports="any")
    cluster.await_targets(port, {"host1"})
    assert cluster.client.fetch(VIP, port, 4) == ["host1"] * 4
    assert [c.say("2") for c in connections[:10]] == ["2"] * 10


def test_ip_options_change_nothing(cluster: LabCluster) -> None:
    """Four no-ops before every TCP header, both ways."""
    listen(cluster, TURNS, 98)
    connection = cluster.client.connect(TURNS, 98, ip_options="01010101")
    assert connection.say("behind options") == "behind options"
