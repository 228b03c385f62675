# SPDX-License-Identifier: Apache-2.0
"""anyport: one IP address for a whole cluster of Linux hosts."""

__version__ = "0.1.0"
