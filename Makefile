.PHONY: help demo test mutants bench abuse deps venv bpf lint docs man lab test-host test-lab
PY := .venv/bin/python

help:            ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r n w; do printf '  make %-10s %s\n' "$$n" "$$w"; done

demo: venv bpf   ## two tenants on a software NIC, from nothing to the operator's table; needs root
	@$(PY) -m demo

bench: venv bpf  ## every figure, beside what else one could use; needs root
	@$(PY) -m bench

abuse: venv bpf  ## what hostile guests, members and files cost the others, for minutes; needs root
	@$(PY) -m bench.abuse

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

# Tests that measure run when nothing else does. All run, whatever the first ones say.
test-host: venv bpf ## what runs on this machine itself; needs root
	@status=0; \
	$(PY) -m pytest -n 2 --dist loadfile -m "not measured" || status=1; \
	$(PY) -m pytest -m measured || status=1; \
	exit $$status

# Machines one after the other: each has both CPUs, and a test that measures has no rival. All of
# them run, whatever the first one says.
test-lab: venv bpf lab ## what runs in that machine: the soft NIC on Linux 6.1 and 6.12, igb, netdevsim
	@status=0; \
	boot() { echo "== lab/vm pytest $$*"; lab/vm pytest "$$@" || status=1; }; \
	boot --kernel 6.1 --igb 0 -- -q tests/lab_soft; \
	boot --kernel 6.12 --igb 0 -- -q tests/lab_netdevsim tests/lab_soft -k "not [tap"; \
	boot --kernel 6.12 --igb 2 --iommu --plain-nic -- -q tests/lab_soft/test_bond_igb.py tests/lab tests/kernel/test_legacy.py; \
	exit $$status

test: venv bpf lint lab ## everything: style, types, tests on this machine and in the laboratory's; needs root
	@status=0; \
	$(MAKE) --no-print-directory test-host || status=1; \
	$(MAKE) --no-print-directory test-lab || status=1; \
	exit $$status

mutants: venv bpf ## whether tests notice small faults, by part (PART=policy: in one); needs root
	@nice -n 19 $(PY) -m tools.mutants $(PART)

docs: venv       ## docs/configuration.md, the JSON Schemas and docs/nics.md, from the types; then what man says
	@$(PY) tools/gen_reference.py
	@$(PY) tools/gen_nics.py
	@$(PY) tools/gen_man.py

man: docs        ## man pages, docs/iplex.md and shell completion, from the commands and docs/man/*.md
