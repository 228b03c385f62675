# SPDX-License-Identifier: Apache-2.0
"""What `anyport status` says of a host that lost its lease."""

from __future__ import annotations

from anyport.daemon.status import absence


def test_a_host_that_the_others_do_not_see_is_told() -> None:
    assert absence("host1", {"host1", "host2"}) is None
    told = absence("host3", {"host1", "host2"})
    assert told is not None
    assert "not a member" in told
