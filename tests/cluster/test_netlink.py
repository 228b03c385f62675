# SPDX-License-Identifier: Apache-2.0
"""kernel.netlink and kernel.sysctl, each test in a network namespace of its own."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import TypeVar

import pytest

from anyport.errors import KernelError
from anyport.kernel import arp, ndp, neighbours, netlink, sysctl

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VIP = IPv4Address("198.51.100.7")
VIP6 = IPv6Address("2001:db8::7")
Result = TypeVar("Result")


def in_new_namespace(body: Callable[[], Result]) -> Result:
    """A thread may unshare on its own; its namespace goes with it."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0  # CLONE_NEWNET
            future.set_result(body())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return future.result()


def awaited(body: Callable[[], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        return await body()

    return in_new_namespace(lambda: asyncio.run(run()))


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def addresses_of_lo() -> str:
    show = ["ip", "-6", "-o", "addr", "show", "dev", "lo"]
    return subprocess.run(show, capture_output=True, text=True).stdout


def disable_ipv6(interface: str) -> None:
    Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").write_text("1")


def test_vip_is_added_once_and_deleted_once() -> None:
    async def body() -> None:
        assert await netlink.add_vip(VIP) is True
        assert await netlink.add_vip(VIP) is False
        assert await netlink.vips_on_lo() == {VIP}
        assert await netlink.delete_vip(VIP) is True
        assert await netlink.delete_vip(VIP) is False
        assert await netlink.vips_on_lo() == set()

    awaited(body)


def test_what_others_put_on_lo_is_no_vip_of_ours() -> None:
    async def body() -> None:
        ip("link set lo up")
        ip("addr add 198.51.100.1/24 dev lo")
        ip(f"addr add {VIP}/32 dev lo")
        ip(f"addr add {VIP6}/128 dev lo")
        assert await netlink.add_vip(VIP) is False
        assert await netlink.add_vip(VIP6) is False
        assert await netlink.vips_on_lo() == set()

    awaited(body)


def test_interface_gives_index_mac_and_addresses() -> None:
    async def body() -> None:
        ip("link add lan0 address 02:00:00:00:00:01 type veth peer name other")
        ip("addr add 10.0.0.1/24 dev lan0")
        found = await netlink.interface("lan0")
        assert found.mac == bytes.fromhex("020000000001")
        assert found.index == socket.if_nametoindex("lan0")
        assert found.addresses == {IPv4Address("10.0.0.1")}
        assert found.networks == {ip_network("10.0.0.0/24")}
        assert not found.up
        ip("link set lan0 up")
        ip("link set other up")
        assert (await netlink.interface("lan0")).up

    awaited(body)


def test_absent_interface_is_refused_with_those_there_are() -> None:
    with pytest.raises(KernelError, match=r"interface 'eth9'; there are lo") as caught:
        awaited(lambda: netlink.interface("eth9"))
    assert caught.value.errno == errno.ENODEV


def test_owner_of_an_address() -> None:
    async def body() -> None:
        ip("link add lan0 type veth peer name other")
        assert await netlink.address_owner(VIP) is None
        await netlink.add_vip(VIP)
        assert await netlink.address_owner(VIP) == "lo"
        ip(f"addr add {VIP}/24 dev lan0")
        assert await netlink.address_owner(VIP) == "lan0"

    awaited(body)


def test_announcement_reaches_the_wire_in_both_forms() -> None:
    async def body() -> list[bytes]:
        ip("link add lan0 address 02:00:00:00:00:01 type veth peer name other")
        ip("link set other up")
        ip("link set lan0 up")  # last: then it can send at once
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as wire:
            wire.bind(("other", 0x0806))
            wire.settimeout(5)
            neighbours.Announcer(await netlink.interface("lan0")).announce(VIP)
            return [wire.recv(100), wire.recv(100)]

    mac, vip = bytes.fromhex("020000000001"), VIP.packed
    head = b"\xff" * 6 + mac + bytes.fromhex("0806 0001 0800 06 04")
    assert awaited(body) == [
        head + b"\x00\x01" + mac + vip + bytes(6) + vip,
        head + b"\x00\x02" + mac + vip + mac + vip,
    ]


def test_a_probe_finds_who_has_an_address() -> None:
    async def body() -> None:
        ip("link add lan0 address 02:00:00:00:00:01 type veth peer name other")
        ip("link set other up")
        ip("link set lan0 up")  # last: then it can send at once
        ip("addr add 198.51.100.1/24 dev lan0")  # our own answers nobody's probe of ours
        lan0, other = await netlink.interface("lan0"), await netlink.interface("other")
        assert await arp.probe(VIP, lan0) is None
        asking = asyncio.create_task(arp.probe(VIP, lan0))
        await asyncio.sleep(0)  # it has sent its first probe
        neighbours.Announcer(other).announce(VIP)
        assert await asking == other.mac

    awaited(body)


def test_a_probe_tells_nobody_an_address() -> None:
    async def body() -> bytes:
        ip("link add lan0 address 02:00:00:00:00:01 type veth peer name other")
        ip("link set other up")
        ip("link set lan0 up")  # last: then it can send at once
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("other", 0x0806))
            wire.settimeout(5)
            await arp.probe(VIP, await netlink.interface("lan0"))
            return wire.recv(100)

    mac = bytes.fromhex("020000000001")
    head = b"\xff" * 6 + mac + bytes.fromhex("0806 0001 0800 06 04 0001")
    assert awaited(body) == head + mac + bytes(4) + bytes(6) + VIP.packed


def test_an_ipv6_vip_is_usable_at_once_on_many_hosts() -> None:
    """No duplicate address detection (RFC 4862 5.4), here or where the VIP is already."""

    async def body() -> str:
        ip("link set lo up")
        assert await netlink.add_vip(VIP6) is True
        assert await netlink.add_vip(VIP6) is False
        assert await netlink.vips_on_lo() == {VIP6}
        assert await netlink.address_owner(VIP6) == "lo"
        with socket.socket(socket.AF_INET6) as bound:
            bound.bind((str(VIP6), 80))  # EADDRNOTAVAIL if it were tentative
        shown = addresses_of_lo()
        assert await netlink.delete_vip(VIP6) is True
        assert await netlink.delete_vip(VIP6) is False
        return shown

    assert "2001:db8::7/128 scope global nodad" in awaited(body)


def test_an_ipv6_vip_that_cannot_be_is_an_error() -> None:
    async def body() -> None:
        disable_ipv6("lo")
        with pytest.raises(KernelError, match=f"add {VIP6} on lo"):
            await netlink.add_vip(VIP6)

    awaited(body)


def test_an_ipv6_announcement_is_an_unsolicited_overriding_advertisement() -> None:
    """RFC 4861 4.4 and 7.2.6, byte by byte; the checksum was computed by hand."""
    mac, vip = bytes.fromhex("020000000001"), VIP6.packed
    all_nodes = bytes.fromhex("ff02 0000 0000 0000 0000 0000 0000 0001")
    assert ndp.advertisement(mac, VIP6) == (
        bytes.fromhex("3333 0000 0001")
        + mac
        + bytes.fromhex("86dd 6000 0000 0020 3a ff")
        + vip
        + all_nodes
        + bytes.fromhex("88 00 f91e 2000 0000")
        + vip
        + bytes.fromhex("02 01")
        + mac
    )


def test_an_ipv6_probe_tells_nobody_an_address() -> None:
    """RFC 4862 5.4.2: from the unspecified address, without a link-layer address option."""
    mac, vip = bytes.fromhex("020000000001"), VIP6.packed
    solicited = bytes.fromhex("ff02 0000 0000 0000 0000 0001 ff00 0007")
    assert ndp.solicitation(mac, VIP6) == (
        bytes.fromhex("3333 ff00 0007")
        + mac
        + bytes.fromhex("86dd 6000 0000 0018 3a ff")
        + bytes(16)
        + solicited
        + bytes.fromhex("87 00 4ce1 0000 0000")
        + vip
    )


def test_sysctls_are_set_and_restored(tmp_path: Path) -> None:
    memory = tmp_path / "sysctls.json"

    def body() -> None:
        before = {name: sysctl.read(name) for name, _, _ in sysctl.wanted("lo")}
        sysctl.restore_sysctls(memory)
        sysctl.set_sysctls("lo", memory)
        assert sysctl.read("ipv4/conf/all/arp_ignore") == "1"
        assert sysctl.read("ipv4/conf/lo/arp_announce") == "2"
        assert sysctl.read("mptcp/allow_join_initial_addr_port") in (None, "0")
        Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("3")
        sysctl.set_sysctls("lo", memory)
        remembered = memory.read_text().replace("conf/lo/arp_ignore", "conf/gone0/arp_ignore", 1)
        memory.write_text(remembered)
        Path("/proc/sys/net/ipv4/conf/lo/arp_ignore").write_text("0")
        sysctl.restore_sysctls(memory)
        assert {name: sysctl.read(name) for name in before} == before
        assert not memory.exists()

    in_new_namespace(body)


def test_a_stricter_arp_setting_is_left_alone(tmp_path: Path) -> None:
    def body() -> None:
        Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("2")
        sysctl.set_sysctls("lo", tmp_path / "sysctls.json")
        assert sysctl.read("ipv4/conf/all/arp_ignore") == "2"

    in_new_namespace(body)


RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


def test_reserved_ports_of_others_stay(tmp_path: Path) -> None:
    def body() -> None:
        RESERVED.write_text("8080,9000-9010")
        reserved = sysctl.ReservedPorts(tmp_path / "reserved")
        reserved.reserve([(9005, 9020)])
        assert RESERVED.read_text().strip() == "8080,9000-9020"
        sysctl.ReservedPorts(tmp_path / "reserved").reserve([(40000, 40001)])
        assert RESERVED.read_text().strip() == "8080,9000-9010,40000-40001"
        reserved.reserve([])
        assert RESERVED.read_text().strip() == "8080,9000-9010"

    in_new_namespace(body)


def test_reservations_of_an_earlier_boot_are_not_ours(tmp_path: Path) -> None:
    def body() -> None:
        memory = tmp_path / "reserved"
        memory.write_text('{"boot": "another", "ports": "8080"}')
        RESERVED.write_text("8080")
        sysctl.ReservedPorts(memory).reserve([])
        assert RESERVED.read_text().strip() == "8080"

    in_new_namespace(body)


def test_a_list_longer_than_a_page_is_reserved_whole(tmp_path: Path) -> None:
    def body() -> None:
        ranges = [(port, port) for port in range(1025, 65535, 2)]
        reserved = sysctl.ReservedPorts(tmp_path / "reserved")
        reserved.reserve(ranges)
        assert (sysctl.read("ipv4/ip_local_reserved_ports") or "").count(",") == len(ranges) - 1
        reserved.reserve([])
        assert sysctl.read("ipv4/ip_local_reserved_ports") == ""

    in_new_namespace(body)
