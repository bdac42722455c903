# Each target does all of its own set-up in .venv; nothing else is installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
CSRC := $(wildcard csrc/*) CMakeLists.txt pyproject.toml

.PHONY: demo test lint bench build sanitize clean

# The serving half and data-free quantization need only the core: no torch is fetched for the demo.
demo: $(VENV)/.demo
	$(BIN)/penjing demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python bench/kernels.py
	$(BIN)/python bench/gguf.py

# Rebuild the compiled core after an edit in csrc/.
build: $(VENV)/.build
	$(PIP) install --no-build-isolation --no-deps -e .

sanitize: $(VENV)/.dev
	bash scripts/sanitize.sh

clean:
	rm -rf $(VENV) build

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Penjing needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build: $(VENV)/bin/python
	$(PIP) install "scikit-build-core>=0.11" "nanobind>=2.7" "cmake>=3.26" "ninja>=1.11"
	touch $@

$(VENV)/.demo: $(VENV)/.build $(CSRC)
	$(PIP) install --no-build-isolation -e '.[demo]'
	touch $@

# torch first and pinned, so that nothing else pulls a build of its own choice.
$(VENV)/.dev: $(VENV)/.build $(CSRC)
	$(PIP) install "torch==2.13.0"
	$(PIP) install --no-build-isolation -e '.[dev,demo,optimize,hub,parquet]'
	touch $@
