# SPDX-License-Identifier: Apache-2.0
"""Measurements. `python -m bench` runs all parts and writes docs/benchmarks.md, `make bench` that
after installing what it needs; `python -m bench.PART` runs one. parts.py lists them.
"""
