# SPDX-License-Identifier: Apache-2.0
"""One distributor: who it is, how the next takes over, and what outlives a daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.support.lab_cluster import VIP, LabCluster, eventually, lab_cluster, neighbour
from tests.support.packets import ethernet, ipv4, tcp

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOSTS = ("host1", "host2", "host3")
SECOND = "10.77.0.81"


@pytest.fixture(scope="module")
def ranked() -> Iterator[LabCluster]:
    """host3 is first by rank, host2 next; host1 never distributes. Leases outlast every restart."""
    with lab_cluster("ranked", 3, {"vip": VIP}, {"registry": {"ttl": 120}}) as cluster:
        sections: dict[str, dict[str, int | bool]] = {
            "host3": {"rank": 10},
            "host2": {"rank": 20},
            "host1": {"candidate": False, "rank": 1},
        }
        for host in sections:
            cluster.leave(host)  # nobody is preempted: who had the VIP before, or stood for it
        for host, section in sections.items():
            cluster.settings(host, {"distributor": section, "registry": {"ttl": 120}})
            cluster.lab.start_daemon(host)
        cluster.await_ready()
        yield cluster


@pytest.fixture
def cluster(ranked: LabCluster) -> Iterator[LabCluster]:
    yield ranked
    for host in HOSTS:
        if ranked.lab.daemon_pid(host) is None:
            ranked.lab.start_daemon(host)
    ranked.reset()


@pytest.fixture
def mortal() -> Iterator[LabCluster]:
    """Leases end soon after their daemons."""
    with lab_cluster("mortal", 2, {"vip": VIP}, {"registry": {"ttl": 2}}) as cluster:
        yield cluster


def packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def arp_answers(cluster: LabCluster, address: str) -> set[bytes]:
    """The MACs that answer for an address.

    Each host is asked for its own right afterwards: once all those answers are
    here, whatever the hosts had to say about `address` is here, too.
    """
    client = cluster.client
    [wire] = client.do("wire", interface="eth0")
    mac, own = cluster.mac("client"), packed(cluster.address("client"))
    for asked in (address, *(cluster.address(host) for host in cluster.lab.hosts)):
        head = b"\xff" * 6 + mac + b"\x08\x06" + bytes.fromhex("0001080006040001")
        client.do("send", number=wire, frame=(head + mac + own + bytes(6) + packed(asked)).hex())
    answers: set[bytes] = set()
    waiting = {packed(cluster.address(host)) for host in cluster.lab.hosts}
    while waiting:
        frame = bytes.fromhex(client.do("frame", number=wire))
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02" and frame[:6] == mac:
            waiting.discard(frame[28:32])
            if frame[28:32] == packed(address):
                answers.add(frame[22:28])
    return answers


def test_the_lowest_rank_of_the_candidates_distributes(cluster: LabCluster) -> None:
    assert cluster.distributor() == "host3"
    # It says so first and answers then.
    eventually(lambda: arp_answers(cluster, VIP) == {cluster.mac("host3")}, "host3 to answer")
    assert arp_answers(cluster, "10.77.0.99") == set()


def test_after_a_polite_stop_the_next_host_takes_over(cluster: LabCluster) -> None:
    take_over(cluster, signal.SIGTERM)


def test_after_a_death_the_next_host_takes_over(mortal: LabCluster) -> None:
    """Once the lease of the dead one has expired."""
    take_over(mortal, signal.SIGKILL)


def take_over(cluster: LabCluster, number: signal.Signals) -> None:
    old = cluster.distributor()
    [new] = {"host2", "host3" if "host3" in cluster.lab.hosts else "host1"} - {old}
    cluster[new].listen(VIP, 80)
    cluster.await_targets(80, {new})
    assert set(cluster.client.fetch(VIP, 80, 5)) == {new}
    assert neighbour(cluster) == cluster.mac(old).hex(":")
    term = cluster.lab.client(new).vip(VIP)["term"]

    cluster.lab.kill_daemon(old, number)
    eventually(
        lambda: cluster.lab.client(new).vip(VIP)["distributor"] == new, f"{new} to take over"
    )
    eventually(lambda: neighbour(cluster) == cluster.mac(new).hex(":"), "the client to hear of it")
    assert set(cluster.client.fetch(VIP, 80, 5)) == {new}
    assert cluster.lab.client(new).vip(VIP)["term"] > term
    assert arp_answers(cluster, VIP) == {cluster.mac(new)}

    cluster.lab.start_daemon(old)  # and does not preempt
    cluster[old].listen(VIP, 80)
    cluster.await_targets(80, {old, new})
    assert cluster.distributor() == new
    assert arp_answers(cluster, VIP) == {cluster.mac(new)}
    assert set(cluster.client.fetch(VIP, 80, 40)) == {old, new}


def test_a_host_that_may_not_distribute_never_does(cluster: LabCluster) -> None:
    """Nobody else is left: nothing is published, and so nothing counts (R1)."""
    for host in ("host2", "host3"):
        cluster.leave(host)
    eventually(lambda: len(cluster.noun("hosts")) == 1, "the others to be gone")
    cluster.write("put", f"/anyport/v1/vips/{SECOND}", '{"v":1,"ports":"80/tcp"}')
    eventually(lambda: len(cluster.noun("vips")) == 2, "the definition to be known")
    cluster["host1"].listen("0.0.0.0", 80)
    cluster["host1"].listen(VIP, 81)  # published before, and still in force
    eventually(lambda: cluster.listeners() == {("host1", "tcp", 81)}, "a listener to count")
    assert cluster.listeners(vip=SECOND) == set()
    assert not cluster.has_on_lo("host1", SECOND)
    assert cluster.lab.client("host1").vip(SECOND)["distributor"] is None
    shown = cluster.anyport("host1", "status")
    assert shown.returncode == 1
    assert f"vip {SECOND}: no host distributes it" in shown.stdout

    cluster.lab.start_daemon("host2")
    cluster.await_targets(80, {"host1"}, vip=SECOND)
    assert cluster.client.fetch(SECOND, 80, 1) == ["host1"]
    cluster.lab.client("host1").delete_vip(SECOND)


@pytest.mark.parametrize("distributes", [True, False])
def test_a_daemon_that_starts_again_adopts(cluster: LabCluster, distributes: bool) -> None:
    """The distributor's, and a target's: nothing that it said is withdrawn, packets go on."""
    host = next(h for h in ("host2", "host3") if (h == cluster.distributor()) is distributes)
    for name in ("host2", "host3"):
        cluster[name].listen(VIP, 80)
    unique = cluster[host].listen(VIP)
    cluster.await_targets(80, {"host2", "host3"})
    cluster.await_targets(unique.port, {host})
    before = cluster.lab.client("host1").vip(VIP)
    connections = [cluster.client.connect(VIP, 80) for _ in range(10)]
    with cluster.watched(f"/anyport/v1/hosts/{host}/") as watch:
        cluster.lab.kill_daemon(host)
        assert [c.say("without it") for c in connections] == ["without it"] * 10
        assert set(cluster.client.fetch(VIP, 80, 20)) == {"host2", "host3"}
        assert cluster.client.fetch(VIP, unique.port, 1) == [host]
        later = cluster[host].listen(VIP, 82)  # nobody sees it yet
        cluster.lab.start_daemon(host)
        cluster.await_targets(82, {host})
        changes = watch.until("/82")
    assert not [change for change in changes if change.startswith("delete")]
    assert cluster.lab.client("host1").vip(VIP) == before
    assert [c.say("with it") for c in connections] == ["with it"] * 10
    assert cluster.client.fetch(VIP, 82, 1) == [host]
    later.close()
    unique.close()
    cluster.await_targets(82, set())
    cluster.await_targets(unique.port, set())


def test_candidacies_end_with_their_vip(cluster: LabCluster) -> None:
    cluster.lab.client("host1").add_vip(SECOND)
    with cluster.watched("/anyport/v1/hosts/host2/") as watch:
        cluster.lab.client("host1").delete_vip(SECOND)
        watch.until(f"delete /anyport/v1/hosts/host2/candidates/{SECOND}")


def test_what_closed_while_the_daemon_was_away_is_told(cluster: LabCluster) -> None:
    """And what closed and opened again, as a server that restarts, was there all the time."""
    closing, again = (cluster["host2"].listen(VIP, port) for port in (80, 81))
    cluster.await_targets(80, {"host2"})
    cluster.await_targets(81, {"host2"})
    with cluster.watched("/anyport/v1/hosts/host2/listeners/") as watch:
        cluster.lab.kill_daemon("host2")
        closing.close()
        again.close()
        cluster["host2"].listen(VIP, 81)
        cluster.lab.start_daemon("host2")
        cluster.await_targets(80, set())
        cluster["host2"].listen(VIP, 82)
        told = watch.until("/82")
    assert [change for change in told if change.startswith("delete")] == [
        f"delete /anyport/v1/hosts/host2/listeners/{VIP}/tcp/80"
    ]
    assert cluster.client.fetch(VIP, 81, 1) == ["host2"]


def test_fragments_reach_the_target_of_their_flow(cluster: LabCluster) -> None:
    """Small datagrams and fragmented ones of a flow are answered by one host."""
    distributor = cluster.distributor()
    for host in HOSTS:
        cluster[host].bind_udp(VIP, 5353)
    cluster.await_targets(5353, set(HOSTS), "udp")
    before = cluster.packets(distributor, "fragment")
    answered = set()
    for source in range(20000, 20012):
        [host] = cluster.client.ask_udp(VIP, 5353, source=source)
        assert cluster.client.ask_udp(VIP, 5353, source=source, length=4000) == [host]
        answered.add(host)
    assert len(answered) > 1
    assert cluster.packets(distributor, "fragment") == before + 12 * 2
    with pytest.raises(ConnectionRefusedError):
        cluster.client.ask_udp(VIP, 5354, length=4000)


def test_what_another_host_sends_on_is_not_sent_on_again(cluster: LabCluster) -> None:
    """A SYN from a host of the VIP: its kernel sends none, so it would have been distributed."""
    distributor = cluster.distributor()
    other = next(host for host in HOSTS if host != distributor)
    cluster[other].listen(VIP, 8080)
    cluster.await_targets(8080, {other})
    selected = cluster.packets(distributor, "selected")
    before = cluster.packets(distributor, "distributed")
    [wire] = cluster[other].do("wire", interface="eth0")
    packet = ipv4(IPv4Address(cluster.address("client")), IPv4Address(VIP), 6, tcp(20000, 8080))
    frame = ethernet(cluster.mac(distributor), cluster.mac(other), 0x0800, packet)
    cluster[other].do("send", number=wire, frame=frame.hex())
    eventually(
        lambda: cluster.packets(distributor, "distributed") == before + 1, "the SYN to be counted"
    )
    assert cluster.packets(distributor, "selected") == selected
