# SPDX-License-Identifier: MIT
# Everything lives in $(VENV). Variables to set from outside:
#   PYTHON  the interpreter that makes the environment (3.10 or later)
#   TORCH   what pip installs as torch, options included, for instance
#           TORCH='--index-url https://download.pytorch.org/whl/cpu torch==2.13.0'
#   WORKERS  processes that run tests side by side; 1 for one test after the other
#   FUSED_RNN_TEST_DATA  a folder of corpora; without it, tests that need one are skipped
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
WORKERS ?= $(shell nproc)
FUSED_RNN_TEST_DATA ?=
export FUSED_RNN_TEST_DATA

PY := $(VENV)/bin/python
PIP := $(PY) -m pip
# Each process on one thread of its own, but for tests that ask for more.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile
BUILD_TOOLS := 'setuptools>=77' wheel ninja pybind11
CPP := $(shell find csrc bench tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# ninja and clang-format are found through the environment's own scripts.
export PATH := $(abspath $(VENV)/bin):$(PATH)

.PHONY: all demo test test-long test-interop test-pure test-all sanitize compilers versions lint format \
	wheel-test bench clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

all: $(VENV)/built

# Stamps: base (torch and the build tools), extra-<name> (dependencies), built (the extension).
$(VENV)/base:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "fused_rnn needs Python 3.10 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	$(PIP) install $(BUILD_TOOLS)
	touch $@

# Registers the source tree and installs the dependencies; the extension is left to `built`,
# where ninja compiles only what changed.
$(VENV)/extra-%: $(VENV)/base pyproject.toml
	FUSED_RNN_BUILD=0 $(PIP) install --no-build-isolation -e '.[$*]'
	touch $@

$(VENV)/built: $(VENV)/base setup.py fused_rnn/ops/schemas.py $(shell find csrc -type f)
	$(PY) setup.py -q build_ext --inplace
	touch $@

demo: $(VENV)/extra-app $(VENV)/built
	$(PY) -m fused_rnn lm demo --out demo

test: $(VENV)/extra-test $(VENV)/built
	$(PYTEST) $(PYTEST_ARGS)

# A few of these take minutes each: whichever process is free takes the next.
test-long: $(VENV)/extra-test $(VENV)/built
	$(PYTEST) --dist worksteal -m long $(PYTEST_ARGS)

# Beside the frameworks whose layers `fused_rnn.interop` takes.
test-interop: $(VENV)/extra-test $(VENV)/extra-interop $(VENV)/built
	$(PYTEST) -m interop $(PYTEST_ARGS)

# The contract's tests without the extension.
test-pure: $(VENV)/extra-test
	.ci/pure $(PY) build/pure

# The kernels without Python, under the address, undefined-behaviour and thread sanitizers.
sanitize:
	$(MAKE) --directory tests/kernels/cpu/sanitize --jobs 2

# And by other compilers, for other processors.
compilers:
	.ci/compilers build/compilers

# Under the oldest release of PyTorch that is promised, and the newest that was tried.
versions: $(VENV)/built
	.ci/versions $(PY) build/versions 2.11.0 2.14.1

test-all: test test-long test-interop test-pure sanitize compilers versions

# With the test extra, so that mypy sees the same packages in every environment.
lint: $(VENV)/extra-lint $(VENV)/extra-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	clang-format --dry-run -Werror $(CPP)

format: $(VENV)/extra-lint
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	clang-format -i $(CPP)

bench: $(VENV)/extra-bench $(VENV)/built
	$(PY) -m bench.run

wheel-test: $(VENV)/base
	.ci/wheel-test $(PY) build/wheel-test $(TORCH)

clean:
	rm -rf build dist demo *.egg-info fused_rnn/*.so
