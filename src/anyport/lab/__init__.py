# SPDX-License-Identifier: Apache-2.0
"""The cluster in a box: hosts, a client and an etcd in namespaces of one machine."""

from anyport.lab.lab import Lab

__all__ = ["Lab"]
