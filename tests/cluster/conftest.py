# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests.support.lab_cluster import LabCluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What failed once may not fail again: the daemons' logs go with the report."""
    report = yield
    if report.failed:
        given: dict[str, Any] = getattr(item, "funcargs", {})
        for name, cluster in given.items():
            if isinstance(cluster, LabCluster):
                for host in cluster.lab.hosts:
                    report.sections.append((f"{name}: log of {host}", cluster.log(host)))
    return report
