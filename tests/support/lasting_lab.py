# SPDX-License-Identifier: Apache-2.0
"""One lab for the tests of a module, each of which finds it as the one before did."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from tests.support.lab_cluster import LabCluster


class LastingLab:
    """`make` brings one up; after a test that left it in another state, the next gets a new one."""

    def __init__(self, make: Callable[[], AbstractContextManager[LabCluster]]) -> None:
        self._make = make
        self._running = ExitStack()
        self._cluster: LabCluster | None = None

    @contextmanager
    def lent(self, restore: Callable[[LabCluster], None]) -> Iterator[LabCluster]:
        """For one test. `restore` raises if it cannot; its logs begin with the test."""
        if self._cluster is None:
            self._cluster = self._running.enter_context(self._make())
        _forget_logs(self._cluster)
        yield self._cluster
        try:
            restore(self._cluster)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._cluster = None
        self._running.close()


def _forget_logs(cluster: LabCluster) -> None:
    """Daemons append to them, wherever the end is."""
    for host in cluster.lab.hosts:
        os.truncate(cluster.lab.node(host).log, 0)
