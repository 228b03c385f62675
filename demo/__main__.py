# SPDX-License-Identifier: Apache-2.0
"""`make demo`: one IP address, any port, on real servers and real clients, in a lab of 3 hosts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from demo.lab import (
    ANYPORT,
    HOSTS,
    LAB,
    VIP,
    VIP6,
    Failure,
    anyport,
    command,
    eventually,
    expect,
    noun,
    run,
    start,
    status,
    targets,
)

PROGRAMS = str(Path(__file__).with_name("programs.py"))
REQUESTS = 300
FILES, FILE_BYTES = 20, 5_000_000
EPHEMERAL_ROUNDS = 50

Step = Callable[["Demo"], str]


class Demo:
    """What runs in the lab, and where its files are."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.nginx: dict[str, subprocess.Popen[str]] = {}
        self.ftp_logs: dict[str, Path] = {}

    def serve(self, host: str, *words: str, log: Path | None = None) -> subprocess.Popen[str]:
        output = self.stack.enter_context(log.open("w")) if log else subprocess.DEVNULL
        program = start(host, *words, stdout=output, stderr=subprocess.DEVNULL)
        self.stack.callback(stop, program)
        return program

    def start_nginx(self, host: str) -> None:
        prefix = self.directory / f"nginx-{host}"
        prefix.mkdir(exist_ok=True)
        (prefix / "nginx.conf").write_text(
            f"daemon off; pid {prefix}/pid; error_log {prefix}/error.log;\n"
            "events {}\n"
            "http { access_log off;\n"
            f"  server {{ listen {VIP}:80; listen [{VIP6}]:80; return 200 '{host}\\n'; }} }}\n"
        )
        self.nginx[host] = self.serve(
            host, "nginx", "-p", str(prefix), "-c", "nginx.conf", "-e", f"{prefix}/error.log"
        )


def stop(program: subprocess.Popen[str]) -> None:
    if program.poll() is None:
        program.terminate()
        program.wait()


def shares(answers: list[str]) -> str:
    return ", ".join(f"{host} {count}" for host, count in sorted(Counter(answers).items()))


def fetch(count: int, at: str = VIP) -> list[str]:
    """`count` requests to the VIP, a connection each; who answered."""
    urls = "".join(f'url = "http://{at}/"\n' for _ in range(count))
    done = subprocess.run(
        command("client", "curl", "-gsS", "--fail", "-H", "Connection: close", "--config", "-"),
        input=urls,
        capture_output=True,
        text=True,
    )
    expect(done.returncode == 0, f"curl failed: {done.stderr.strip()[:200]}")
    return done.stdout.split()


def lab_up(demo: Demo) -> str:
    topology = ("--hosts", "3", "--topology", "routed")
    anyport("lab", "up", "--name", LAB, *topology, "--vip", VIP, "--vip", VIP6)
    return f"3 hosts, one VIP {VIP}, one {VIP6}, no port listed anywhere"


def share_requests(demo: Demo) -> str:
    for host in HOSTS:
        demo.start_nginx(host)
    eventually("nginx on all hosts", lambda: targets(80) == set(HOSTS))
    answers = fetch(REQUESTS)
    expect(len(answers) == REQUESTS and set(answers) == set(HOSTS), f"answers: {shares(answers)}")
    return shares(answers)


def one_stops(demo: Demo) -> str:
    stop(demo.nginx["host2"])
    eventually("nginx of host2 gone", lambda: targets(80) == {"host1", "host3"})
    answers = fetch(REQUESTS)
    expect(len(answers) == REQUESTS, f"{len(answers)} answers")
    expect(set(answers) == {"host1", "host3"}, f"answers: {shares(answers)}")
    return shares(answers)


def it_returns(demo: Demo) -> str:
    demo.start_nginx("host2")
    eventually("nginx of host2 back", lambda: targets(80) == set(HOSTS))
    answers = fetch(REQUESTS)
    expect(len(answers) == REQUESTS and set(answers) == set(HOSTS), f"answers: {shares(answers)}")
    return shares(answers)


def behind_a_router(demo: Demo) -> str:
    distributor = noun("vip", "show", VIP)["distributor"]
    rows = json.loads(run(distributor, "anyport", "hosts", "--json"))
    paths = {row["host"]: {path["path"] for path in row["paths"]} for row in rows}
    expect(paths["host3"] == {"ipip"}, f"paths from {distributor}: {paths}")
    seen = []
    for method in ("round-robin", "hash"):
        run("host1", "anyport", "vip", "set", VIP, "--method", method)
        answers = fetch(90)
        expect(len(answers) == 90 and "host3" in answers, f"{method}: {shares(answers)}")
        seen.append(f"{method} {shares(answers)}")
    return "; ".join(seen)


def start_ftp(demo: Demo) -> None:
    home = demo.directory / "ftp"
    home.mkdir()
    for host in HOSTS:
        demo.ftp_logs[host] = demo.directory / f"ftp-{host}.log"
        demo.serve(host, sys.executable, PROGRAMS, "ftp", host, str(home), log=demo.ftp_logs[host])
    eventually("FTP on all hosts", lambda: targets(21) == set(HOSTS))


def passive_ftp(demo: Demo) -> str:
    start_ftp(demo)
    sums = {}
    for number in range(FILES):
        original = demo.directory / f"up-{number}"
        original.write_bytes(os.urandom(FILE_BYTES))
        sums[number] = hashlib.sha256(original.read_bytes()).digest()
        url = f"ftp://demo:demo@{VIP}/file-{number}"
        run("client", "curl", "-sS", "-T", str(original), url)
        fetched = demo.directory / f"down-{number}"
        run("client", "curl", "-sS", "-o", str(fetched), url)
        same = hashlib.sha256(fetched.read_bytes()).digest() == sums[number]
        expect(same, f"file {number} came back changed")
        original.unlink()
        fetched.unlink()
    counted = [line.split()[0] for log in demo.ftp_logs.values() for line in log.open()]
    expect(len(counted) == 2 * FILES, f"{len(counted)} data connections for {FILES} files")
    expect(len(set(counted)) > 1, "one host had all data connections")
    return f"{2 * FILES} data connections, checksums equal: {shares(counted)}"


def ephemeral(demo: Demo, vip: str, rounds: int) -> list[str]:
    """Each host in turn binds port 0; the client calls the port it got, on the VIP."""
    counts = [rounds // 3 + (n < rounds % 3) for n in range(3)]
    answers: list[str] = []
    for host, count in zip(HOSTS, counts, strict=True):
        words = (sys.executable, PROGRAMS, "ephemeral", host, str(count), vip)
        server = start(host, *words, stdout=subprocess.PIPE)
        demo.stack.callback(stop, server)
        assert server.stdout is not None
        for line in server.stdout:
            fetched = run("client", "bash", "-c", f"cat </dev/tcp/{vip}/{line.strip()}")
            expect(fetched.strip() == host, f"port {line.strip()} of {host}: got {fetched!r}")
            answers.append(host)
    expect(len(answers) == rounds, f"{len(answers)} rounds")
    return answers


def any_port(demo: Demo) -> str:
    return shares(ephemeral(demo, VIP, EPHEMERAL_ROUNDS))


def wildcard_hidden(demo: Demo) -> str:
    demo.serve("host1", sys.executable, "-m", "http.server", "8081", "--bind", "0.0.0.0")
    own = ("curl", "-sS", "-o", "/dev/null", "http://10.77.0.1:8081/")
    eventually("host1's own port 8081", lambda: status("client", *own) == 0)
    refused = status("client", "curl", "-sS", f"http://{VIP}:8081/")
    expect(refused == 7, f"curl to the VIP: exit {refused}, not 7 (refused)")
    return "10.77.0.1:8081 answers, the VIP's 8081 is refused"


def udp_service(demo: Demo) -> str:
    for host in HOSTS:
        demo.serve(host, sys.executable, PROGRAMS, "udp", host, "5353")
    eventually("UDP on all hosts", lambda: targets(5353, "udp") == set(HOSTS))
    answers = run("client", sys.executable, PROGRAMS, "ask-udp", "5353", "90").split()
    expect(len(answers) == 90 and set(answers) == set(HOSTS), f"answers: {shares(answers)}")
    return shares(answers)


def ipv6(demo: Demo) -> str:
    for host in HOSTS:
        demo.serve(host, sys.executable, PROGRAMS, "udp", host, "5353", VIP6)
    listening = [(80, "tcp"), (5353, "udp")]
    everywhere = set(HOSTS)
    eventually(
        "IPv6 listeners on all hosts",
        lambda: all(targets(*port, VIP6) == everywhere for port in listening),
    )
    web = fetch(90, f"[{VIP6}]")
    expect(len(web) == 90 and set(web) == everywhere, f"answers: {shares(web)}")
    unique = ephemeral(demo, VIP6, 12)
    asked = run("client", sys.executable, PROGRAMS, "ask-udp", "5353", "90", VIP6).split()
    expect(len(asked) == 90 and set(asked) == everywhere, f"answers: {shares(asked)}")
    return f"nginx {shares(web)}; bind 0 {shares(unique)}; UDP {shares(asked)}"


def enumerated(demo: Demo) -> str:
    run("host1", "anyport", "vip", "set", VIP, "--ports", "80/tcp,8081/tcp")
    eventually("the wildcard listener counts", lambda: targets(8081) == {"host1"})
    run("client", "curl", "-sS", "-o", "/dev/null", f"http://{VIP}:8081/")
    refused = status("client", "curl", "-sS", f"ftp://demo:demo@{VIP}/")
    expect(refused == 7, f"FTP, not enumerated any more: curl exit {refused}, not 7 (refused)")
    answers = fetch(30)
    expect(len(answers) == 30, f"{len(answers)} answers")
    return f"the wildcard 8081 counts, FTP is refused, nginx goes on: {shares(answers)}"


STEPS: list[tuple[str, Step]] = [
    ("a lab of three hosts comes up, one of them behind a router", lab_up),
    (f"nginx on the VIP of each host shares {REQUESTS} requests", share_requests),
    ("one nginx stops: the others take its share", one_stops),
    ("it returns and gets its share again", it_returns),
    ("of these, host3 is behind a router: IPIP, by either method", behind_a_router),
    (f"passive FTP: {FILES} files of 5 MB up and down", passive_ftp),
    (f"bind(VIP, 0), {EPHEMERAL_ROUNDS} times, each reached on the port it got", any_port),
    ("a wildcard listener is not reachable on the VIP", wildcard_hidden),
    ("a UDP service, answers from the VIP", udp_service),
    (f"all of it on {VIP6}: nginx, bind(VIP, 0), UDP", ipv6),
    ("the same VIP, switched to enumerated ports while it runs", enumerated),
]


def main() -> int:
    console = Console(highlight=False)
    table = Table("what", "seen", title=f"anyport: {VIP} is three hosts")
    failed = False
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anyport-demo-")))
        directory.chmod(0o755)
        stack.callback(subprocess.run, [ANYPORT, "lab", "down", "--name", LAB])
        demo = Demo(directory, stack)
        for what, step in STEPS:
            console.print(f"… {what}")
            try:
                seen = step(demo)
            except Failure as failure:
                table.add_row(what, f"FAILED: {failure}")
                failed = True
                break
            console.print(f"  {seen}")
            table.add_row(what, seen)
    console.print(table)
    verdict = "FAILED" if failed else f"verified: {len(STEPS)} of {len(STEPS)}"
    console.print(verdict)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
