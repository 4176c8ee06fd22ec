.PHONY: deps venv bpf lint test docs man lab test-lab
PY := .venv/bin/python

deps:            ## Debian packages for building and testing
	@tools/deps.sh

venv: .venv/.done  ## a virtual environment with vfd and the tools to develop it

.venv/.done: pyproject.toml tools/hatch_build.py | deps
	@test -x $(PY) || python3 -m venv .venv
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

bpf:             ## the soft NIC's BPF program, compiled beside its source
	@python3 tools/compile_bpf.py

lint: venv
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

lab:             ## the machine with SR-IOV NICs: QEMU, two Debian kernels, netdevsim, into a cache folder
	@python3 -m lab.build

test-lab: venv lab  ## what runs in that machine
	@lab/vm pytest -- tests/lab

test: venv bpf lint lab
	@$(PY) -m pytest

docs: venv       ## docs/configuration.md and the JSON Schemas, from the types; then what man says
	@$(PY) tools/gen_reference.py
	@$(PY) tools/gen_man.py

man: docs        ## man pages, docs/iplex.md and shell completion, from the commands and docs/man/*.md
