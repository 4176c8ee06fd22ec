.PHONY: help demo test quick mutants bench abuse deps venv bpf lint docs man lab \
	quick-tests test-host test-measured test-lab test-packages test-all \
	lab-igb lab-netdevsim lab-soft lab-measured lab-itself
PY := .venv/bin/python
# Where it is set, each of the tests' thousand processes compiles all modules anew.
export PYTHONDONTWRITEBYTECODE :=
# `make quick` alone draws less.
unexport VFD_FEW

help:            ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r n w; do printf '  make %-13s %s\n' "$$n" "$$w"; done

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

bpf: | deps      ## the soft NIC's BPF program, compiled beside its source
	@python3 tools/compile_bpf.py

lint: venv       ## style and types
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

lab: | deps      ## the machine with SR-IOV NICs: QEMU, two Debian kernels, netdevsim, into a cache folder
	@python3 -m lab.build

# A skipped test proves nothing: it fails.
PYTEST := $(PY) -m pytest -q --no-skips --ignore tests/packaging
# Files as they come: those of one long test would else come last, and be waited for.
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder -m "not measured"
# All run, whatever the first ones say, and each says it at its end.
TOGETHER := $(MAKE) --no-print-directory --keep-going --output-sync=target
QUICK := $(addprefix tests/,test_imports.py policy plan config kernel bpf packet soft daemon/test_reload.py)
MACHINES := lab-igb lab-netdevsim lab-soft lab-itself

# The core's. Most of it waits, so it waits together; what measures then has the machine to itself.
test: ## the core: style, types, tests on this machine and in the laboratory's; needs root
	@status=0; \
	$(TOGETHER) -j3 test-host $(MACHINES) lint || status=1; \
	$(TOGETHER) test-measured lab-measured || status=1; \
	exit $$status

quick:           ## what a change breaks soonest: style, types, rules, backends, frames; needs root
	@$(TOGETHER) -j2 lint quick-tests

quick-tests: venv bpf
	@VFD_FEW=1 $(PYTEST) -n 6 $(SIDE_BY_SIDE) $(QUICK)

test-host: venv bpf ## what runs on this machine itself and doesn't measure; needs root
	@$(PYTEST) -n 3 $(SIDE_BY_SIDE) --ignore tests/lab_host

test-measured: venv bpf ## what measures, alone; needs root
	@$(PYTEST) -m measured

test-lab:        ## what runs in the laboratory's machines, two at a time
	@$(TOGETHER) -j2 $(MACHINES)

lab-igb: venv bpf lab
	lab/vm pytest --igb 2 --iommu --plain-nic -- -q --no-skips -m "not measured" tests/lab

# Two emulated processors cost these half as much again as one.
lab-netdevsim: venv bpf lab
	lab/vm pytest --smp 1 --igb 0 -- -q --no-skips tests/lab_netdevsim tests/lab_soft -m "not measured" -k "not [tap"

lab-soft: venv bpf lab
	lab/vm pytest --kernel 6.1 --smp 1 --igb 0 -- -q --no-skips tests/lab_soft

lab-measured: venv bpf lab
	lab/vm pytest --igb 2 --iommu -- -q --no-skips -m measured tests/lab tests/lab_netdevsim

lab-itself: venv lab
	@$(PYTEST) tests/lab_host

test-packages: venv bpf ## what is built to be installed elsewhere, and the demo; needs root
	@$(PY) -m pytest -q --no-skips tests/packaging

# The parts beside the core, the fast ones first.
test-all:        ## every part, and the core last: what must pass before anything lands
	@$(TOGETHER) test-packages test

mutants: venv bpf ## whether tests notice small faults, by part (PART=policy: in one); needs root
	@nice -n 19 $(PY) -m tools.mutants $(PART)

docs: venv       ## docs/configuration.md, the JSON Schemas and docs/nics.md, from the types; then what man says
	@$(PY) tools/gen_reference.py
	@$(PY) tools/gen_nics.py
	@$(PY) tools/gen_man.py

man: docs        ## man pages, docs/iplex.md and shell completion, from the commands and docs/man/*.md
