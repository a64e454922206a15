# Everything a newcomer needs: Python 3.11 or newer, git and make.
# `make PYTHON=python3.12 demo` picks another interpreter; `make VENV=... test` another place for the environment.

PYTHON ?= python3
VENV ?= .venv
OUT ?= out/demo
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
FROZEN := pyproject.toml constraints.txt
# Two processes share the tests out; those that need a cluster stay together.
TWO := --numprocesses 2 --dist loadgroup --durations 40
# Most of the tests' time is compiling: without XLA's optimizations of a program's code they take a third less. Numbers
# against real Caffe and whole runs, the longest first, are compiled as users' are. An unknown flag ends XLA.
QUICKLY := XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
AS_USED := tests/notebooks tests/cli/test_demo.py tests/solver/test_golden_solvers.py tests/nn/test_golden_layers.py \
	tests/nn/test_golden_nets.py
CODE := cosdask tests benchmarks notebooks/execute.py

# Demo and tests start hundreds of processes, and each would compile our modules anew: a quarter of its start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check test-long lint notebooks bench soak sandbox sandbox-stop clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo-installed  ## Train, test and use LeNet on 5,000 real digits (results in out/demo)
	$(BIN)/cosdask demo --output $(OUT) --overwrite

test: lint  ## Lint, then the tests and every example in the docstrings
	$(BIN)/python -m pytest --durations 10 -m "hadoop and not long" tests/cluster
	$(BIN)/python -m pytest $(TWO) $(AS_USED)
	$(QUICKLY) $(BIN)/python -m pytest $(TWO) -m "not hadoop and not long" $(AS_USED:%=--ignore=%)

test-long: lint  ## The tests that take longest: more faults, more on YARN
	$(BIN)/python -m pytest --durations 20 -m long

check: lint  ## Lint, then the fast tests (under three minutes)
	$(QUICKLY) $(BIN)/python -m pytest $(TWO) -m "not slow and not long"

lint: $(VENV)/.test-installed  ## Style, format, types and the direction of imports
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(VENV)/.test-installed  ## Execute the notebooks and store them with their outputs
	$(BIN)/python notebooks/execute.py

bench: $(VENV)/.bench-installed  ## Measure against PyTorch and against the bare loop (downloads PyTorch)
	$(BIN)/python -m benchmarks.run

soak: $(VENV)/.test-installed  ## Thirty random faults in one training; takes some ten minutes
	$(BIN)/python -m benchmarks.soak

sandbox: $(VENV)/.yarn-installed  ## Start a small real Hadoop (HDFS, YARN) on loopback; needs Java 17 and Maven
	$(BIN)/cosdask sandbox start

sandbox-stop:  ## End it; nothing of it stays
	$(BIN)/cosdask sandbox stop

clean:  ## Remove the environment, caches and the demo's output
	rm -rf $(VENV) $(OUT) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find cosdask tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "cosdask needs Python 3.11 or newer; give it with make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A file beside the environment says which extras it holds, so that a second `make` starts at once.
$(VENV)/.demo-installed: EXTRAS = demo
$(VENV)/.test-installed: EXTRAS = demo,test,dev,yarn,leveldb,tensorboard
$(VENV)/.yarn-installed: EXTRAS = yarn
$(VENV)/.bench-installed: EXTRAS = demo,bench
$(VENV)/.%-installed: $(FROZEN) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
