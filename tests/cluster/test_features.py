# SPDX-License-Identifier: Apache-2.0
"""What `anyport doctor` says of the kernel that runs this test, where the other tests pass."""

from __future__ import annotations

import os

import pytest

from anyport.kernel.features import kernel_findings


def test_nothing_is_missing_where_everything_works() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    assert [finding for finding in kernel_findings() if finding.fatal] == []
