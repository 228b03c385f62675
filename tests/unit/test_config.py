# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from anyport.config import load
from anyport.errors import ConfigError
from anyport.model import Host, PathWish

MINIMAL = '[host]\nname = "a"\naddress = "10.0.0.1"\ninterface = "eth0"\n'


def written(directory: Path, text: str) -> Path:
    path = directory / "anyport.toml"
    path.write_text(text)
    return path


def test_a_minimal_file_takes_the_defaults(tmp_path: Path) -> None:
    config = load(written(tmp_path, MINIMAL))
    assert (config.host.weight, config.distributor.rank) == (100, 100)
    assert config.registry.endpoints == ()


def test_what_a_host_describes_of_itself(tmp_path: Path) -> None:
    host = load(written(tmp_path, MINIMAL + 'address6 = "fd00::1"\npath = "ipip"\n')).host
    ipv4, ipv6 = IPv4Address("10.0.0.1"), IPv6Address("fd00::1")
    assert host.described() == Host("a", ipv4, address6=ipv6, path=PathWish.IPIP)


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        (MINIMAL, {4}),
        (MINIMAL.replace("10.0.0.1", "fd00::1"), {6}),
        (MINIMAL + 'address6 = "fe80::1"\n', {4, 6}),
    ],
)
def test_a_host_may_have_an_address_of_either_family_or_both(
    tmp_path: Path, text: str, versions: set[int]
) -> None:
    assert load(written(tmp_path, text)).host.versions == versions


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (MINIMAL + "colour = 1\n", "host: object contains unknown field `colour`"),
        (MINIMAL + "[hosts]\n", "unknown field `hosts`"),
        (MINIMAL + 'weight = "x"\n', "host.weight: expected `int`, got `str`"),
        (MINIMAL + "weight = -1\n", "host.weight -1: allowed are 0-10000"),
        (MINIMAL + 'path = "l3"\n', "host.path: invalid enum value 'l3'"),
        (MINIMAL + '[distributor]\ncandidate = "no"\n', "distributor.candidate: invalid enum"),
        (MINIMAL + "[distributor]\ncandidate = 1\n", "distributor.candidate: expected"),
        (MINIMAL.replace("10.0.0.1", "10.0.0"), "host.address '10.0.0'"),
        (MINIMAL.replace("10.0.0.1", "fe80::1%eth0"), "host.address 'fe80::1%eth0'"),
        (MINIMAL + 'address6 = "10.0.0.1"\n', "host.address6 '10.0.0.1': an IPv6 address"),
        (MINIMAL + 'address6 = "ff02::1"\n', "host.address6 'ff02::1'"),
        (
            MINIMAL.replace("10.0.0.1", "fd00::1") + 'address6 = "fd00::2"\n',
            "host.address is an IPv6 address already",
        ),
        (MINIMAL.replace('"a"', '"a/b"'), "host.name 'a/b'"),
        (MINIMAL + "[blocks]\nfirst = 50000\nlast = 40000\n", "blocks.first 50000"),
        (MINIMAL + "[blocks]\nsize = 16\nlow_water = 17\n", "blocks.low_water 17"),
        (MINIMAL + "[tables]\nconnections = 1\n", "tables.connections 1: allowed are 1024-"),
        (MINIMAL + '[registry]\ncert = "/x"\n', "registry.cert and registry.key go together"),
        (MINIMAL + '[registry]\nca = "/nowhere"\n', "registry.ca '/nowhere': no such file"),
        (MINIMAL + "[blocks]\nrest = nan\n", "blocks.rest nan: allowed are 0-86400"),
        (MINIMAL + "[blocks]\nrest = 1e9\n", "blocks.rest 1000000000.0: allowed are 0-86400"),
        (MINIMAL + "[blocks]\nquarantine = inf\n", "blocks.quarantine inf: allowed are 10-604800"),
        (MINIMAL + "[blocks]\nquarantine = 9\n", "blocks.quarantine 9.0: allowed are 10-604800"),
        (
            MINIMAL + "[registry]\nttl = 150\n",
            "registry.ttl 150: less than a quarter of blocks.quarantine (600) is wanted",
        ),
        (MINIMAL + f'[daemon]\nsocket = "/{"x" * 107}"\n', "longer than 107 bytes"),
        ("[host\n", "Expected"),
        ('[host]\naddress = "10.0.0.1"\n', "host: object missing required field `interface`"),
    ],
)
def test_each_fault_is_one_line_with_the_file_and_the_key(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    line = str(raised.value)
    assert line.startswith(f"{path}: ")
    assert complaint in line
    assert "\n" not in line
    assert raised.value.exit_status == 2


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config"):
        load(tmp_path / "none.toml")
