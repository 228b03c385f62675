# SPDX-License-Identifier: Apache-2.0
"""The CLI against an HTTP server on a unix socket that answers as the daemon does."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from anyport.cli import options
from anyport.cli.main import main
from anyport.cli.tables import cell
from anyport.config import DEFAULT_PATH

VIP = {
    "vip": "192.0.2.1",
    "ports": "any",
    "method": "hash",
    "hosts": "all",
    "distributor": "a",
    "term": 3,
}
ROWS = {
    "/v1/vips": [VIP],
    "/v1/vips/192.0.2.1": VIP,
    "/v1/hosts": [
        {
            "host": "a",
            "address": "10.0.0.1",
            "weight": 100,
            "state": "draining",
            "draining_since": "then",
            "connections_left": 2,
            "distributes": [],
            "since": "now",
            "paths": [
                {"family": "ipv4", "path": "ipip", "address": "10.0.0.1", "mtu": 1500},
                {"family": "ipv6", "path": "none", "address": None, "mtu": None},
            ],
        }
    ],
    "/v1/ports?vip=192.0.2.1": [
        {
            "vip": "192.0.2.1",
            "protocol": "tcp",
            "port": 80,
            "route": "distributed",
            "targets": [
                {"host": "a", "weight": 100, "connections": 4},
                {"host": "b", "weight": 50, "connections": None},
            ],
        }
    ],
    "/v1/listeners": [],
    "/v1/connections": [],
    "/v1/blocks": [{"vip": "192.0.2.1", "first": 40000, "last": 40127, "host": "a", "used": 1}],
    "/v1/counters?vip=192.0.2.1": [
        {
            "program": "distribute",
            "vip": "192.0.2.1",
            "route": "unique",
            "path": "l2",
            "target": "a",
            "reason": "unique",
            "packets": 3,
            "bytes": 180,
            "events": None,
        }
    ],
    "/v1/counters?zero=yes": [],
    "/v1/status": {"healthy": True, "ready": True, "problems": [], "registry": {"connected": True}},
}


class Daemon(socketserver.ThreadingUnixStreamServer):
    """`answers` by path; `asked` is what came: method, path, body."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.answers: dict[str, Any] = dict(ROWS)
        self.status = 200
        self.asked: list[tuple[str, str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Daemon

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body))
        answer = self.server.answers.get(self.path, {"pending": None})
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def daemon(config: Path) -> Iterator[Daemon]:
    with Daemon(config.with_name("sock")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "anyport.toml"
    path.write_text(
        '[host]\nname = "a"\naddress = "10.0.0.1"\ninterface = "eth0"\n'
        f'[daemon]\nsocket = "{tmp_path / "sock"}"\n'
    )
    monkeypatch.setenv("ANYPORT_CONFIG", str(path))
    return path


def anyport(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    capsys.readouterr()
    status = main(line.split())
    out, err = capsys.readouterr()
    return status, out, err


NOUNS = [
    ("vip list", "/v1/vips"),
    ("vip show 192.0.2.1", "/v1/vips/192.0.2.1"),
    ("hosts", "/v1/hosts"),
    ("listeners", "/v1/listeners"),
    ("ports 192.0.2.1", "/v1/ports?vip=192.0.2.1"),
    ("connections", "/v1/connections"),
    ("blocks", "/v1/blocks"),
    ("counters 192.0.2.1", "/v1/counters?vip=192.0.2.1"),
    ("counters --all", "/v1/counters?zero=yes"),
    ("status", "/v1/status"),
]


@pytest.mark.parametrize(("line", "path"), NOUNS)
def test_json_is_what_the_daemon_says(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], line: str, path: str
) -> None:
    status, out, err = anyport(capsys, f"{line} --json")
    assert (status, json.loads(out), err) == (0, ROWS[path], "")
    assert daemon.asked == [("GET", path, None)]


TABLES = [
    ("vip list", "vip        ports  method  hosts  distributor  term\n192.0.2.1  any    hash    "),
    ("vip show 192.0.2.1", "vip          192.0.2.1\nports        any\n"),
    (
        "hosts",
        "host  address   address6  weight  state     draining since  connections left  since  "
        "paths\n"
        "a     10.0.0.1  -         100     draining  then            2                 now    "
        "ipv4 ipip 10.0.0.1, ipv6 none\n",
    ),
    ("listeners", "vip  protocol  port  host  specific  user  process\n"),
    (
        "ports 192.0.2.1",
        "vip        protocol  port  route        targets (weight, connections)\n"
        "192.0.2.1  tcp       80    distributed  a (100, 4), b (50)\n",
    ),
    ("connections", "protocol  client  client port  vip  port  host\n"),
    ("blocks", "vip        first  last   host  used\n192.0.2.1  40000  40127  a     1\n"),
    (
        "counters 192.0.2.1",
        "program     vip        route   path  target  reason  packets  bytes  events\n"
        "distribute  192.0.2.1  unique  l2    a       unique  3        180    -\n",
    ),
    ("status", "healthy\n\nready     yes\nregistry\n  connected  yes\n"),
]


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(("line", "table"), TABLES)
def test_a_pipe_gets_plain_columns(
    capsys: pytest.CaptureFixture[str], line: str, table: str
) -> None:
    status, out, err = anyport(capsys, line)
    assert (status, out[: len(table)], err) == (0, table, "")


def test_columns_in_a_pipe_are_never_cut(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [{"host": f"host{n}", "weight": 1, "connections": 0} for n in range(60)]
    [row] = ROWS["/v1/ports?vip=192.0.2.1"]
    daemon.answers["/v1/ports"] = [{**row, "targets": targets}]  # type: ignore[dict-item]
    _, out, _ = anyport(capsys, "ports")
    assert len(out.splitlines()) == 2
    assert "host59 (1, 0)" in out


CHANGES = [
    (
        "vip add 192.0.2.9",
        ("POST", "/v1/vips"),
        {"vip": "192.0.2.9", "ports": "any", "method": "hash", "hosts": "all"},
    ),
    (
        "vip add 192.0.2.9 --ports 443,80,8000-8100/tcp --method round-robin --hosts b,a",
        ("POST", "/v1/vips"),
        {
            "vip": "192.0.2.9",
            "ports": "80,443,8000-8100/tcp",
            "method": "round-robin",
            "hosts": ["a", "b"],
        },
    ),
    ("vip set 192.0.2.9 --hosts all", ("PATCH", "/v1/vips/192.0.2.9"), {"hosts": "all"}),
    ("vip set 192.0.2.9 --ports any", ("PATCH", "/v1/vips/192.0.2.9"), {"ports": "any"}),
    ("vip set 192.0.2.9 --udp-idle 5", ("PATCH", "/v1/vips/192.0.2.9"), {"udp_idle": 5}),
    ("vip set 2001:DB8::0:9 --hosts all", ("PATCH", "/v1/vips/2001:db8::9"), {"hosts": "all"}),
]


@pytest.mark.parametrize(("line", "request_line", "body"), CHANGES)
def test_verbs_send_what_was_given(
    daemon: Daemon,
    capsys: pytest.CaptureFixture[str],
    line: str,
    request_line: tuple[str, str],
    body: Any,
) -> None:
    assert anyport(capsys, line) == (0, "", "")
    assert daemon.asked == [(*request_line, body)]


def test_what_does_not_hold_yet_is_said(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["/v1/vips"] = {"pending": "no host distributes it yet"}
    assert anyport(capsys, "vip add 192.0.2.9") == (0, "", "anyport: no host distributes it yet\n")


# ---- vip delete ----

IMPACT = {
    "vip": "192.0.2.9",
    "distributor": "c",
    "listeners": {"a": 2, "b": 1},
    "connections": {},
}
TOLD = "3 listeners (a 2, b 1), 0 connections"


def deletes(daemon: Daemon, connections: dict[str, int | None]) -> None:
    daemon.answers["/v1/vips/192.0.2.9/impact"] = IMPACT | {"connections": connections}


def was_deleted(daemon: Daemon) -> bool:
    return ("DELETE", "/v1/vips/192.0.2.9", None) in daemon.asked


def test_what_no_connection_uses_is_deleted_at_once(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    deletes(daemon, {})
    said = f"vip 192.0.2.9 is deleted: {TOLD}\n"
    assert anyport(capsys, "vip delete 192.0.2.9") == (0, said, "")
    assert was_deleted(daemon)


@pytest.mark.parametrize(
    ("connections", "told"),
    [
        ({"a": 1}, "1 connection (a 1)"),
        ({"a": 2, "b": 3}, "5 connections (a 2, b 3)"),
        ({"b": None}, "0 connections, and those of b, which c knows"),
    ],
)
def test_live_connections_want_a_yes(
    daemon: Daemon,
    capsys: pytest.CaptureFixture[str],
    connections: dict[str, int | None],
    told: str,
) -> None:
    """Those that are not known here count as live."""
    deletes(daemon, connections)
    told = f"3 listeners (a 2, b 1), {told}"
    status, out, err = anyport(capsys, "vip delete 192.0.2.9")
    line = f"anyport: vip 192.0.2.9: {told}; `--yes` deletes it all the same\n"
    assert (status, out, err) == (1, "", line)
    assert not was_deleted(daemon)
    said = f"vip 192.0.2.9 is deleted: {told}\n"
    assert anyport(capsys, "vip delete 192.0.2.9 --yes") == (0, said, "")
    assert was_deleted(daemon)


@pytest.mark.parametrize(("word", "status"), [("y", 0), ("n", 130)])
def test_in_a_terminal_it_is_asked(
    daemon: Daemon,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    status: int,
) -> None:
    deletes(daemon, {"a": 1})
    terminal, keyboard = os.openpty()
    os.write(terminal, f"{word}\n".encode())
    with open(keyboard) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert anyport(capsys, "vip delete 192.0.2.9")[0] == status
    os.close(terminal)
    assert was_deleted(daemon) is (word == "y")


def test_a_deletion_in_json(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    deletes(daemon, {"a": 1})
    status, out, _ = anyport(capsys, "vip delete 192.0.2.9 --yes --json")
    assert (status, json.loads(out)) == (0, IMPACT | {"connections": {"a": 1}, "pending": None})


# ---- drain, resume ----

DONE = {
    "host": "b",
    "member": True,
    "draining_since": "then",
    "connections_left": 0,
    "distributes": [],
}
STATES = [
    ({}, "b is drained", 0),
    ({"connections_left": 1}, "b drains: 1 connection left", 1),
    ({"connections_left": None}, "b drains: its connections are yet to be counted", 1),
    (
        {"connections_left": 2, "distributes": ["192.0.2.9"]},
        "b drains: 2 connections left, it distributes 192.0.2.9 still",
        1,
    ),
    (
        {"distributes": ["192.0.2.9"]},
        "b drains: 0 connections left, it distributes 192.0.2.9 still",
        1,
    ),
    (
        {"member": False, "connections_left": None},
        "b is away: nobody can say which connections it has",
        1,
    ),
]


def drains(daemon: Daemon, *, refused: Any = (), pending: Any = None, **row: Any) -> None:
    answer = {"pending": pending, "refused": list(refused)}
    for asked in ("a", "b", "a?anyway=yes"):
        daemon.answers[f"/v1/drains/{asked}"] = answer
    daemon.answers["/v1/drains"] = [DONE | {"host": "a"}, DONE | row]


@pytest.mark.parametrize(("row", "state", "status"), STATES)
def test_how_far_a_drain_is(
    daemon: Daemon,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, Any],
    state: str,
    status: int,
) -> None:
    """Without --wait it is enough that it has begun."""
    drains(daemon, **row)
    assert anyport(capsys, "drain b") == (0, f"{state}\n", "")
    assert daemon.asked[0] == ("PUT", "/v1/drains/b", None)
    out = f"{state}\n" if status == 0 else ""
    assert anyport(capsys, "drain b --wait 0") == (status, out, f"{state}\n")
    shown = anyport(capsys, "drain b --wait 0 --json")
    assert (shown[0], json.loads(shown[1]), shown[2]) == (
        status,
        DONE | row | {"refused": []},
        "",
    )


def test_a_wait_shows_each_change_once_and_ends_when_it_is_done(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([5, 2, 2, 0])

    def pause(_: float) -> None:
        drains(daemon, connections_left=next(counts))

    monkeypatch.setattr("anyport.cli.drain.time.sleep", pause)
    drains(daemon, connections_left=5)
    status, out, err = anyport(capsys, "drain b --wait")
    said = ["5 connections left", "2 connections left"]
    assert (status, out) == (0, "b is drained\n")
    assert err.splitlines() == [*(f"b drains: {line}" for line in said), "b is drained"]


def test_this_host_is_drained_by_default(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    drains(daemon)
    assert anyport(capsys, "drain --yes") == (0, "a is drained\n", "")
    assert anyport(capsys, "resume") == (0, "a takes new connections\n", "")
    status, out, _ = anyport(capsys, "resume b --json")
    assert (status, json.loads(out)["host"]) == (0, "b")
    assert [asked[:2] for asked in daemon.asked if asked[0] != "GET"] == [
        ("PUT", "/v1/drains/a?anyway=yes"),
        ("DELETE", "/v1/drains/a"),
        ("DELETE", "/v1/drains/b"),
    ]


def test_what_is_refused_from_now_on_is_named(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = [{"vip": "192.0.2.9", "protocol": "tcp", "port": port} for port in range(80, 92)]
    drains(daemon, refused=ports, pending="not yet")
    _, _, err = anyport(capsys, "drain b")
    first, second = err.splitlines()
    assert first == "anyport: not yet"
    assert "new connections are refused: 192.0.2.9 80/tcp, 192.0.2.9 81/tcp" in second
    assert second.endswith("192.0.2.9 89/tcp and 2 more")


def test_a_drain_that_somebody_ended_is_not_waited_for(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    drains(daemon)
    daemon.answers["/v1/drains"] = []
    status, _, err = anyport(capsys, "drain b --wait")
    assert (status, err) == (1, "anyport: b is not drained any more: somebody has resumed it\n")


REFUSED = [
    ("drain b --wait soon", "'soon' is not a valid float range"),
    ("vip add 192.0.2.300", "address '192.0.2.300': an IP address is wanted, as 192.0.2.10"),
    ("vip add fd00::1%eth0", "address 'fd00::1%eth0': an IP address is wanted"),
    ("vip add 192.0.2.9 --ports 90-80", "the range is backwards; did you mean 80-90?"),
    ("vip add 192.0.2.9 --ports http", "allowed are `any` or ports 1-65535"),
    ("vip add 192.0.2.9 --ports 80/sctp", "protocol 'sctp': allowed are tcp and udp"),
    ("vip add 192.0.2.9 --method random", "method 'random': allowed are hash, round-robin"),
    ("vip add 192.0.2.9 --hosts a,,b", "allowed are `all` or names as a,b,c"),
    ("vip set 192.0.2.9 --udp-idle 0", "0 is not in the range 1<=x<=86400"),
    ("vip set 192.0.2.9", "nothing to change: give --ports, --method, --hosts or --udp-idle"),
    ("vip add", "Missing argument 'ADDR'"),
    ("hosts --wide", "No such option"),
    ("nonsense", "No such command 'nonsense'"),
    ("lab up --ports 80", "give --vip too"),
    ("lab up --hosts 51", "51 is not in the range 1<=x<=50"),
    ("lab exec --name a_b client true", "lab name 'a_b': allowed are"),
]


@pytest.mark.parametrize(("line", "complaint"), REFUSED)
def test_bad_words_are_refused_in_one_line_before_the_daemon_is_asked(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], line: str, complaint: str
) -> None:
    status, out, err = anyport(capsys, line)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("anyport: ")
    assert complaint in err
    assert daemon.asked == []


@pytest.mark.parametrize(("exit_status", "http_status"), [(2, 400), (1, 503)])
def test_what_the_daemon_refuses_is_told_as_it_says(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], exit_status: int, http_status: int
) -> None:
    daemon.status = http_status
    daemon.answers["/v1/vips/192.0.2.9"] = {"error": "vip is odd", "exit": exit_status}
    assert anyport(capsys, "vip show 192.0.2.9") == (exit_status, "", "anyport: vip is odd\n")


def test_something_else_on_the_socket(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["/v1/hosts"] = b"<html>"
    status, _, err = anyport(capsys, "hosts")
    assert status == 1
    assert "is no anyport daemon" in err


def test_no_daemon_is_said_with_the_remedy(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = anyport(capsys, "hosts")
    assert (status, out) == (1, "")
    assert err == (
        f"anyport: no daemon answers on {config.with_name('sock')}: start `anyport run`, "
        "or name its configuration with --config\n"
    )


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("line", ["--config {} hosts", "hosts --config {}"])
def test_config_is_taken_before_and_after_the_noun(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
) -> None:
    monkeypatch.setenv("ANYPORT_CONFIG", "/nowhere")
    assert anyport(capsys, line.format(config))[0] == 0


def test_no_configuration_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = anyport(capsys, "hosts --config /nowhere")
    assert status == 2
    assert err.startswith("anyport: /nowhere: No such file or directory")


def test_unhealthy_is_exit_status_1_with_the_reasons(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["/v1/status"] = {"healthy": False, "problems": ["registry: no answer"]}
    status, out, _ = anyport(capsys, "status")
    assert status == 1
    assert out.startswith("NOT HEALTHY\n  registry: no answer\n")


def test_both_default_paths_are_one() -> None:
    assert options._DEFAULT_CONFIG == DEFAULT_PATH


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from anyport.cli.main import main; main(['--help'])\n"
        "print([m for m in ('grpc', 'rich', 'pyroute2', 'msgspec', 'cffi', 'starlette')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")


def test_doctor_works_without_capabilities_and_without_a_configuration() -> None:
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    doctor = [sys.executable, "-m", "anyport.cli.main", "doctor", "--json", "--config", "/nowhere"]
    done = subprocess.run([*powerless, *doctor], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert found["configuration"]["found"] is False
    assert found["capabilities"]["found"] is False
    assert found["capabilities"]["remedy"] == "run as root"
    assert "kernel BTF" in found


def test_what_others_name_themselves_does_not_steer_the_terminal() -> None:
    assert cell("\x1b[2Jngi\u202enx\n\u00fc") == "?[2Jngi?nx?\u00fc"
