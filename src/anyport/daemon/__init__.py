# SPDX-License-Identifier: Apache-2.0
"""`anyport run`: agent and distributor of one host, in one process."""

from anyport.daemon.daemon import run

__all__ = ["run"]
