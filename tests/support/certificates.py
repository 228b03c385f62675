# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Certificates:
    directory: Path

    def authority(self, name: str) -> Path:
        self._openssl(
            f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
            f"-subj /CN={name} -keyout {name}.key -out {name}.pem"
        )
        return self.directory / f"{name}.pem"

    def issue(self, name: str, authority: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """Certificate and key, for `name` and `address`."""
        self._openssl(
            f"req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} "
            f"-addext subjectAltName=IP:{address} -keyout {name}.key -out {name}.csr"
        )
        self._openssl(
            f"x509 -req -in {name}.csr -CA {authority} -CAkey {authority.with_suffix('.key')} "
            f"-copy_extensions copy -days 2 -out {name}.pem"
        )
        return self.directory / f"{name}.pem", self.directory / f"{name}.key"

    def _openssl(self, arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments.split()], cwd=self.directory, check=True, capture_output=True
        )
