.PHONY: help demo test bench deps venv bpf lint docs man lab test-lab
PY := .venv/bin/python

help:            ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r n w; do printf '  make %-10s %s\n' "$$n" "$$w"; done

demo: venv bpf   ## two tenants on a software NIC, from nothing to the operator's table; needs root
	@$(PY) -m demo

bench: venv bpf  ## every figure, beside what else one could use; needs root
	@$(PY) -m bench

deps:            ## Debian packages for building and testing
	@tools/deps.sh

venv: .venv/.done ## a virtual environment with vfd and the tools to develop it

.venv/.done: pyproject.toml tools/hatch_build.py | deps
	@test -x $(PY) || python3 -m venv .venv
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

bpf:             ## the soft NIC's BPF program, compiled beside its source
	@python3 tools/compile_bpf.py

lint: venv       ## style and types
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

lab:             ## the machine with SR-IOV NICs: QEMU, two Debian kernels, netdevsim, into a cache folder
	@python3 -m lab.build

test-lab: venv lab  ## what runs in that machine
	@lab/vm pytest -- tests/lab

test: venv bpf lint lab ## everything: style, types, tests on this machine; needs root
	@$(PY) -m pytest

docs: venv       ## docs/configuration.md, the JSON Schemas and docs/nics.md, from the types; then what man says
	@$(PY) tools/gen_reference.py
	@$(PY) tools/gen_nics.py
	@$(PY) tools/gen_man.py

man: docs        ## man pages, docs/iplex.md and shell completion, from the commands and docs/man/*.md
