# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from anyport.decide.hook import wanted_hook


@pytest.mark.parametrize(
    ("wish", "driver", "has_vlans", "name", "why"),
    [
        ("auto", "ixgbe", False, "xdp", "driver ixgbe has it"),
        ("auto", "ixgbe", True, "tc", "VLANs"),
        ("auto", "veth", False, "tc", "large segments"),
        ("auto", "virtio_net", False, "tc", "large segments"),
        ("xdp", "veth", True, "xdp", "configured"),
        ("tc", "ixgbe", False, "tc", "configured"),
    ],
)
def test_hook(wish: str, driver: str, has_vlans: bool, name: str, why: str) -> None:
    hook = wanted_hook(wish, driver, has_vlans)
    assert hook.name == name
    assert why in hook.why
