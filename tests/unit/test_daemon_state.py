# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
from pathlib import Path

import pytest

from anyport.daemon import state
from anyport.errors import AnyportError


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def test_a_living_daemons_socket_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / "anyport.sock"
    with state.listen_unix(path):
        with pytest.raises(AnyportError, match="another daemon answers there"):
            state.listen_unix(path)
        assert answers(path)


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "anyport.sock"
    state.listen_unix(path).close()
    assert not answers(path)
    with state.listen_unix(path):
        assert answers(path)
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_socket_of_ours_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(AnyportError, match="no socket"):
        state.listen_unix(path)
    assert path.read_text() == "mine"
