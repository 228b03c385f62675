# SPDX-License-Identifier: Apache-2.0
"""A run: the rounds of a seed on a lab, its history in a file."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from anyport.errors import AnyportError
from tests.chaos.bounds import CONVERGED_SECONDS, LEASE_SECONDS, TTL_SECONDS
from tests.chaos.crew import Crew
from tests.chaos.daemons import Daemons
from tests.chaos.faults import Faults
from tests.chaos.observer import Observer, disagreement
from tests.chaos.recorder import Recorder
from tests.chaos.scenario import ALL, CLUSTER, DISTRIBUTOR, TARGET, Round, Step, Use, rounds
from tests.support.lab_cluster import VIP, LabCluster, lab_cluster

STEADY_SECONDS = 4.0
"""After each round, in which everything is to be served."""
LOOK_SECONDS = 0.1
SETTINGS = {
    "registry": {"ttl": TTL_SECONDS},
    "blocks": {  # so few ports that hosts want what others had
        "first": 40000,
        "last": 40127,
        "size": 16,
        "largest": 32,
        "low_water": 8,
        "rest": 3,
        "quarantine": 20,
    },
}

Say = Callable[[str], None]


class Unsettled(Exception):
    """What the daemons do not agree on; the rest of the run would tell nothing new."""


class Run:
    def __init__(self, cluster: LabCluster, seed: int, directory: Path, say: Say) -> None:
        self._lab = cluster.lab
        self._seed = seed
        self._say = say
        self._recorder = Recorder(directory / "history.jsonl")
        self._observer = Observer(cluster.lab, self._recorder)
        self._daemons = Daemons(cluster.lab, self._recorder)
        self._crew = Crew(cluster.lab, VIP, directory, self._recorder, seed)
        self._faults = Faults(cluster, self._crew, self._daemons, directory)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._uses: list[threading.Thread] = []
        self._number = 0

    def go(self, seconds: float) -> None:
        """Whole rounds, until so many seconds are over."""
        until = time.monotonic() + seconds
        with self._everybody():
            self._settle()
            for round_ in rounds(self._seed, self._lab.hosts):
                if time.monotonic() > until:
                    break
                self._play(round_)
            self._crew.finish(CONVERGED_SECONDS * 4)

    @contextlib.contextmanager
    def _everybody(self) -> Iterator[None]:
        self._crew.start()
        self._observer.start()
        self._daemons.start()
        try:
            yield
        finally:
            self._over.set()
            for use in self._uses:
                use.join()
            self._daemons.stop()
            self._observer.stop()
            self._crew.stop()

    def _play(self, round_: Round) -> None:
        faults = [asdict(step) for step in round_.faults]
        self._recorder.tell("round", number=round_.number, faults=faults)
        words = ", ".join(f"{s.what} {s.hits} {s.lasts:g} s".strip() for s in round_.faults)
        self._say(f"round {round_.number}: {words}")
        begun = time.monotonic()
        uses = [self._thread(self._use, begun, use) for use in round_.uses]
        self._uses = [thread for thread in self._uses if thread.is_alive()] + uses
        for thread in [self._thread(self._suffer, begun, step) for step in round_.faults]:
            thread.join()
        self._settle()

    def _thread(self, do: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=do, args=arguments, daemon=True)
        thread.start()
        return thread

    # ---- faults ----

    def _suffer(self, begun: float, step: Step) -> None:
        time.sleep(max(0.0, begun + step.at - time.monotonic()))
        hosts = self._hosts(step.hits)
        with self._lock:
            self._number += 1
            number, needs = self._number, self._faults.needs(step, hosts)
            taken = self._held & needs
            self._held |= set() if taken else needs
        self._tell(number, step, hosts, "skipped" if taken else "begin")
        if not taken:
            self._carry_out(number, step, hosts)
            with self._lock:
                self._held -= needs

    def _carry_out(self, number: int, step: Step, hosts: Sequence[str]) -> None:
        try:
            with self._faults.begin(step, hosts):
                time.sleep(step.lasts)
        except (AnyportError, AssertionError, OSError, subprocess.SubprocessError) as error:
            self._tell(number, step, hosts, "failed", str(error))
        self._tell(number, step, hosts, "end")

    def _tell(
        self, number: int, step: Step, hosts: Sequence[str], phase: str, why: str = ""
    ) -> None:
        self._recorder.tell(
            "fault", number=number, what=step.what, hosts=list(hosts), phase=phase, why=why
        )

    def _hosts(self, hits: str) -> list[str]:
        """Their names, now."""
        everybody = self._lab.hosts
        distributor = self._distributor() or everybody[0]
        target = next(host for host in everybody if host != distributor)
        return {
            ALL: everybody,
            DISTRIBUTOR: [distributor],
            TARGET: [target],
            CLUSTER: [],
        }[hits]

    def _distributor(self) -> str | None:
        """The one of the highest term that any host has seen."""
        seen = [s["terms"].get(VIP, [None, None]) for s in self._observer.latest.values() if s]
        elected = [(term, host) for host, term in seen if host is not None]
        return max(elected)[1] if elected else None

    # ---- users on the hosts ----

    def _use(self, begun: float, use: Use) -> None:
        self._over.wait(max(0.0, begun + use.at - time.monotonic()))
        with self._lock:
            self._number += 1
            name = f"use{self._number}"
        self._crew.tell_servers(use.host, "open", name, use.protocol, use.port)
        self._over.wait(use.lasts)
        self._crew.tell_servers(use.host, "close", name)

    # ---- when all is over ----

    def _settle(self) -> None:
        """All is undone: the daemons are to agree, and to serve whoever comes."""
        deadline = time.monotonic() + CONVERGED_SECONDS
        time.sleep(LEASE_SECONDS)
        while differs := self._disagreement():
            if time.monotonic() > deadline:
                self._recorder.tell("unsettled", why=differs)
                raise Unsettled("\n".join(differs))
            if drained := self._faults.heed():
                self._recorder.tell("heeded", hosts=drained)
            time.sleep(LOOK_SECONDS)
        self._recorder.tell("settled")
        self._recorder.tell("steady", phase="begin")
        time.sleep(STEADY_SECONDS)
        self._recorder.tell("steady", phase="end")

    def _disagreement(self) -> list[str]:
        """By two looks at each daemon that began after the call: users come and go meanwhile."""
        before = dict(self._observer.looks)
        while not all(n >= before[host] + 2 for host, n in self._observer.looks.items()):
            time.sleep(LOOK_SECONDS)
        return disagreement(self._observer.latest)


def run(seed: int, seconds: float, hosts: int, directory: Path, say: Say) -> None:
    """The history, and the daemons' logs, are in `directory` in the end."""
    with lab_cluster("chaos", hosts, {"vip": VIP}, SETTINGS) as cluster:
        try:
            Run(cluster, seed, directory, say).go(seconds)
        except Unsettled as differs:
            say(f"not within {CONVERGED_SECONDS:.0f} s: {differs}")
        finally:
            for host in cluster.lab.hosts:
                shutil.copy(cluster.lab.node(host).log, directory / f"{host}.log")
