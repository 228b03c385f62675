# SPDX-License-Identifier: Apache-2.0
"""What each daemon shows, in the history whenever it is something else than before."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from anyport.client import Client
from anyport.errors import AnyportError
from anyport.lab import Lab
from tests.chaos.recorder import Recorder

LOOK_SECONDS = 0.4
WAIT_SECONDS = 1.0
"""A daemon that does not answer for so long shows nothing."""

State = dict[str, Any]


class Observer:
    """A thread for each host. `latest`: host -> state; None: no daemon answers there."""

    def __init__(self, lab: Lab, recorder: Recorder) -> None:
        self._recorder = recorder
        self._over = threading.Event()
        self.looks: dict[str, int] = dict.fromkeys(lab.hosts, 0)
        self.latest: dict[str, State | None] = dict.fromkeys(lab.hosts)
        self._threads = [
            threading.Thread(target=self._watch, args=(host, client), daemon=True)
            for host in lab.hosts
            for client in [Client(lab.node(host).socket, WAIT_SECONDS)]
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, host: str, client: Client) -> None:
        while not self._over.wait(LOOK_SECONDS):
            state = self._look(client)
            if state != self.latest[host] or not self.looks[host]:
                self._recorder.tell("seen", host=host, state=state)
            self.latest[host] = state
            self.looks[host] += 1

    def _look(self, client: Client) -> State | None:
        try:
            status = client.get("status")
            nouns = {noun: client.get(noun) for noun in ("vips", "hosts", "ports", "blocks")}
        except AnyportError:
            return None
        return shown(status, nouns)


def shown(status: Mapping[str, Any], nouns: Mapping[str, Sequence[Mapping[str, Any]]]) -> State:
    """Without what changes by itself: times, counts."""
    return {
        "well": bool(status["healthy"] and status["ready"]),
        "problems": [problem.split(":")[0] for problem in status["problems"]],
        "connected": status["registry"]["connected"],
        "distributes": [vip["vip"] for vip in status["vips"] if vip["distributing_here"]],
        "terms": {vip["vip"]: [vip["distributor"], vip["term"]] for vip in nouns["vips"]},
        "table": {
            "vips": [[v["vip"], v["method"], v["distributor"]] for v in nouns["vips"]],
            "hosts": [[h["host"], h["state"]] for h in nouns["hosts"]],
            "ports": [
                [p["protocol"], p["port"], p["route"], sorted(t["host"] for t in p["targets"])]
                for p in nouns["ports"]
            ],
            "blocks": sorted([b["first"], b["last"], b["host"]] for b in nouns["blocks"]),
        },
    }


def disagreement(latest: Mapping[str, State | None]) -> list[str]:
    """What is not as it is to be when no fault is left; empty: nothing."""
    answering = {host: state for host, state in latest.items() if state is not None}
    found = [f"{host} does not answer" for host in sorted(latest.keys() - answering.keys())]
    for host, state in sorted(answering.items()):
        if not state["well"]:
            found.append(f"{host}: not ready, or: {', '.join(state['problems'])}")
        for vip, _, distributor in state["table"]["vips"]:
            if (vip in state["distributes"]) != (distributor == host):
                here = "distributes it" if vip in state["distributes"] else "does not"
                found.append(f"{host}: {vip} is {distributor}'s, and it {here}")
        if not state["table"]["vips"]:
            found.append(f"{host}: no VIP")
        absent = latest.keys() - {name for name, _ in state["table"]["hosts"]}
        found += [f"{host}: {one} is not a member" for one in sorted(absent)]
    return found + _differences(answering)


def _differences(answering: Mapping[str, State]) -> list[str]:
    found: list[str] = []
    for part in ("vips", "hosts", "ports", "blocks"):
        by_host = {host: state["table"][part] for host, state in sorted(answering.items())}
        rows = {str(row) for table in by_host.values() for row in table}
        for row in sorted(rows):
            having = [h for h, table in by_host.items() if row in map(str, table)]
            if len(having) < len(by_host):
                found.append(f"{part}: {row} only at {', '.join(having)}")
    return found
