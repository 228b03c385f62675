# SPDX-License-Identifier: Apache-2.0
# Everything here sets up what it needs, on Debian 12, as root.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= /usr/bin/python3

BUILD_PACKAGES := clang llvm libbpf-dev libbpf1 bpftool make python3 python3-venv
RUN_PACKAGES := etcd-server iproute2 ethtool util-linux procps
DEMO_PACKAGES := nginx-light curl
CHECK_PACKAGES := clang-format git

install: $(VENV)/.installed bpf

$(VENV)/.installed: pyproject.toml packaging/install-packages
	packaging/install-packages $(BUILD_PACKAGES) $(RUN_PACKAGES) $(DEMO_PACKAGES) $(CHECK_PACKAGES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,demo]'
	touch $@

bpf: $(VENV)/.installed
	$(MAKE) --silent -C bpf

test: install
	$(BIN)/pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	clang-format --dry-run --Werror bpf/*.c bpf/*.h

demo: install
	$(BIN)/python -m demo

clean:
	$(MAKE) --silent -C bpf clean
	rm -rf $(VENV)

.PHONY: install bpf test check demo clean
