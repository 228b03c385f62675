# SPDX-License-Identifier: Apache-2.0
# Everything here sets up what it needs, on Debian 12, as root.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
PYTHON ?= /usr/bin/python3

# `su` without `-` keeps a user's PATH, which lacks ip, nginx, bpftool.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

HOST_PACKAGES := clang libbpf-dev libbpf1 bpftool python3 python3-venv \
	etcd-server iproute2 ethtool util-linux procps
DEMO_PACKAGES := nginx curl
DEV_PACKAGES := clang-format openssl
BENCH_PACKAGES := wrk iperf3 nftables haproxy nginx libnginx-mod-stream
KERNEL_PACKAGES := qemu-system-x86 busybox-static cpio

KERNEL := build/kernel
KERNEL_TESTS := tests/abi tests/packet $(wildcard tests/cluster/test_listen_*.py) \
	tests/cluster/test_netlink.py tests/cluster/test_features.py

install: $(VENV)/.host bpf

# A host runs anyport with the first alone; each of the others adds to the one before.
$(VENV)/.host: pyproject.toml packaging/install-packages
	packaging/install-packages $(HOST_PACKAGES)
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.demo: $(VENV)/.host
	packaging/install-packages $(DEMO_PACKAGES)
	$(PIP_INSTALL) --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	packaging/install-packages $(DEV_PACKAGES) $(BENCH_PACKAGES)
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@

bpf: $(VENV)/.host
	$(MAKE) --silent -C bpf

# JOBS= files of tests side by side, but for those that are about speed or time.
JOBS ?= 1
ALONE := tests/bench tests/chaos
test: $(VENV)/.dev bpf
ifeq ($(JOBS),1)
	$(BIN)/pytest
else
	$(BIN)/pytest $(ALONE)
	$(BIN)/pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder \
		$(addprefix --ignore=,$(ALONE))
endif

# Mutated packets through the packet program and its reference model. SEED= repeats a run.
COUNT ?= 1000000
fuzz: $(VENV)/.dev bpf
	$(BIN)/python -m tests.fuzz --count $(COUNT) $(if $(SEED),--seed $(SEED))

# Faults at random under real clients, for so long. SEED= gives the same faults again.
MINUTES ?= 10
chaos: $(VENV)/.dev bpf
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# What the kernel has to do with, on Debian 12's own kernel, in an emulated machine.
test-kernel: $(VENV)/.dev bpf $(KERNEL)/.fetched
	tests/kernel/boot $(KERNEL) $(KERNEL_TESTS)

$(KERNEL)/.fetched: tests/kernel/fetch
	packaging/install-packages $(KERNEL_PACKAGES)
	tests/kernel/fetch $(KERNEL)
	touch $@

check: $(VENV)/.dev bpf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	clang-format --dry-run --Werror bpf/*.c bpf/*.h bench/*.c

demo: $(VENV)/.demo bpf
	$(BIN)/python -m demo

# Writes docs/benchmarks.md; each figure takes SECONDS, ROUNDS times.
ROUNDS ?= 5
SECONDS ?= 2
bench: $(VENV)/.host bpf
	packaging/install-packages $(BENCH_PACKAGES)
	$(BIN)/python -m bench --rounds $(ROUNDS) --seconds $(SECONDS)

clean:
	$(MAKE) --silent -C bpf clean
	rm -rf $(VENV) $(KERNEL)

.PHONY: install bpf test fuzz chaos test-kernel check demo bench clean
