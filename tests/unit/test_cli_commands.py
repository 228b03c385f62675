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
            "state": "active",
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

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

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
        "host  address   address6  weight  state   since  paths\n"
        "a     10.0.0.1  -         100     active  now    ipv4 ipip 10.0.0.1, ipv6 none\n",
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
    ("vip delete 192.0.2.9", ("DELETE", "/v1/vips/192.0.2.9"), None),
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


REFUSED = [
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
