# SPDX-License-Identifier: Apache-2.0
"""Small programs that the demo runs on the lab's hosts and in its client.

usage: programs.py ftp HOST HOME | ephemeral HOST COUNT [VIP] | udp HOST PORT [VIP]
                   | ask-udp PORT COUNT [VIP]
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

VIP = "10.77.0.80"


def ftp(host: str, home: str) -> None:
    """An FTP server on the VIP; passive mode binds port 0. A line on stdout per transfer."""
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import DTPHandler, FTPHandler
    from pyftpdlib.log import config_logging
    from pyftpdlib.servers import FTPServer

    config_logging(level=40)

    class CountedData(DTPHandler):  # type: ignore[misc]
        def __init__(self, sock: socket.socket, cmd_channel: FTPHandler) -> None:
            super().__init__(sock, cmd_channel)
            print(host, sock.getsockname()[1], flush=True)

    class Handler(FTPHandler):  # type: ignore[misc]
        authorizer = DummyAuthorizer()
        dtp_handler = CountedData
        use_sendfile = False

    Handler.authorizer.add_user("demo", "demo", home, perm="elradfmw")
    FTPServer((VIP, 21), Handler).serve_forever()


def family_of(vip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in vip else socket.AF_INET


def ephemeral(host: str, count: str, vip: str = VIP) -> None:
    """COUNT times: binds port 0 of the VIP, says which it got, serves one client, closes."""
    for _ in range(int(count)):
        with socket.create_server((vip, 0), family=family_of(vip)) as server:
            print(server.getsockname()[1], flush=True)
            with server.accept()[0] as connection:
                connection.sendall(f"{host}\n".encode())


def udp(host: str, port: str, vip: str = VIP) -> None:
    with socket.socket(family_of(vip), socket.SOCK_DGRAM) as server:
        server.bind((vip, int(port)))
        print("ready", flush=True)
        while True:
            question, client = server.recvfrom(2048)
            server.sendto(host.encode() + b" " + question, client)


def ask_udp(port: str, count: str, vip: str = VIP) -> None:
    """COUNT questions from a port each; prints who answered. The answer must come from the VIP."""
    for number in range(int(count)):
        with socket.socket(family_of(vip), socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.sendto(b"%d" % number, (vip, int(port)))
            answer, sender = client.recvfrom(2048)
            host, echoed = answer.decode().split()
            assert (sender[:2], int(echoed)) == ((vip, int(port)), number), (sender, answer)
            print(host)


def main() -> None:
    actions: dict[str, Callable[..., None]] = {
        "ftp": ftp,
        "ephemeral": ephemeral,
        "udp": udp,
        "ask-udp": ask_udp,
    }
    actions[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
