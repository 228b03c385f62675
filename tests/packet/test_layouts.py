# SPDX-License-Identifier: Apache-2.0
"""What becomes of a former daemon's maps when they are of another version's layout."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from anyport.errors import KernelError
from anyport.kernel import layouts, loader
from anyport.kernel.distribute import DistributorKernel
from anyport.kernel.libbpf import Map, MapType
from anyport.kernel.listen_attach import load as load_listen
from anyport.kernel.target import TargetKernel
from tests.packet import world as w
from tests.packet.wire import Wire, attach, forwarded
from tests.packet.world import segment
from tests.support.packets import ACK


def number(pins: Path, name: str, number: int) -> None:
    """Says that the map was made with this layout."""
    with closing(Map.open_pinned(pins / "layouts")) as table:
        table.update(name.encode().ljust(32, b"\0"), number.to_bytes(4, "little"))


def pinned(pins: Path) -> dict[str, int]:
    """Map -> its id."""
    found = {}
    for name in layouts.LAYOUTS:
        if (pins / name).exists():
            with closing(Map.open_pinned(pins / name)) as map:
                found[name] = map.id
    return found


def test_every_pinned_map_has_a_number(wire: Wire, pins: Path, kernel: DistributorKernel) -> None:
    load_listen(pins).close()
    TargetKernel.load(wire.index, pins).close()
    known = {p.name for p in pins.iterdir() if p.suffix != ".debug"} - {"links", "layouts"}
    assert known == layouts.LAYOUTS.keys()


@pytest.fixture
def all_pinned(pins: Path) -> Path:
    """Every map, as far as its name goes."""
    loader.prepare_pins(pins)
    for name in layouts.LAYOUTS:
        with closing(Map.create(MapType.ARRAY, name[:15], 4, 4, 1)) as map:
            map.pin(pins / name)
    return pins


@pytest.mark.parametrize("other", [99, 0], ids=["newer", "older"])
@pytest.mark.parametrize("name", layouts.KEPT)
def test_a_map_that_cannot_begin_anew_is_refused_by_name(
    all_pinned: Path, name: str, other: int
) -> None:
    """And nothing is changed: what may begin anew neither."""
    number(all_pinned, name, other)
    number(all_pinned, "counters", other)
    before = pinned(all_pinned)
    with pytest.raises(KernelError, match=rf": {name} \({other}, not 1\); .*`anyport detach`"):
        loader.prepare_pins(all_pinned)
    assert pinned(all_pinned) == before
    number(all_pinned, name, layouts.KEPT[name])
    loader.prepare_pins(all_pinned)
    before.pop("counters")
    assert pinned(all_pinned) == before


@pytest.mark.parametrize("other", [99, 0], ids=["newer", "older"])
@pytest.mark.parametrize("name", layouts.ANEW)
def test_any_other_begins_anew(
    all_pinned: Path, name: str, other: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = pinned(all_pinned)
    number(all_pinned, name, other)
    loader.prepare_pins(all_pinned)
    assert f"{all_pinned / name} is another version's: it begins anew" in caplog.text
    before.pop(name)
    assert pinned(all_pinned) == before
    loader.prepare_pins(all_pinned)
    assert caplog.text.count("begins anew") == 1


def test_pins_without_numbers_are_another_version_s(wire: Wire, pins: Path) -> None:
    attach(wire, pins).close()
    (pins / "layouts").unlink()
    with pytest.raises(KernelError, match=r"vips \(0, not 1\), .*hosts \(0, not 1\)"):
        attach(wire, pins)
    assert not (pins / "layouts").exists()


def test_maps_that_only_another_version_has_are_unpinned(wire: Wire, pins: Path) -> None:
    """That version would find them as they were before this one ran."""
    attach(wire, pins).close()
    with closing(Map.create(MapType.ARRAY, "later", 4, 4, 1)) as later:
        later.pin(pins / "later")
    number(pins, "later", 1)
    attach(wire, pins).close()
    assert not (pins / "later").exists()
    assert layouts._read(pins) == layouts.LAYOUTS


def test_counters_begin_anew_and_connections_stay(
    wire: Wire, pins: Path, kernel: DistributorKernel
) -> None:
    wire.send(segment(w.SHARED))
    wire.receive()
    number(pins, "counters", 99)
    with closing(attach(wire, pins)) as second:
        assert second.counts() == []
        wire.send(segment(w.SHARED, ACK))
        assert wire.receive() == forwarded(segment(w.SHARED, ACK))
        assert second.counters()["established"] == 1


def test_a_connection_table_that_cannot_be_made_leaves_the_former(
    wire: Wire, pins: Path, kernel: DistributorKernel
) -> None:
    wire.send(segment(w.SHARED))
    wire.receive()
    with pytest.raises(KernelError):
        attach(wire, pins, connections=1 << 32)  # 256 GiB
    with closing(attach(wire, pins)) as second:
        assert len(list(second.connections())) == 1
