# make setup       .venv with everything pinned in constraints.txt
# make quickstart  train, predict and report on small tasks, with nothing to download but the package's needs
# make test        lint, types and tests
# make test-all    the same, with the slow tests: further cases of what the others hold, and a compiler's minutes
# make bench       speed and memory beside other libraries: docs/benchmarks.md; an hour and a half on an idle machine of 2 cores
# make clean       remove what the above made

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# pip compiles nothing here, so that what is imported must be: where nothing may be written, each process compiles it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup quickstart test test-all bench lint types clean
.DELETE_ON_ERROR:

setup: $(VENV)/.installed

# Python compiles what is imported: all that is installed would take as long again.
INSTALL := $(BIN)/pip install --no-compile --constraint constraints.txt --editable

# What a user needs, and nothing to develop with.
$(VENV)/.package: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/.installed: $(VENV)/.package
	$(INSTALL) ".[dev]"
	touch $@

quickstart: $(VENV)/.package
	rm -rf runs/quickstart
	$(BIN)/hyperadapt quickstart

test: lint types
	$(BIN)/pytest -n 2 --dist loadgroup

test-all: lint types
	$(BIN)/pytest -n 2 --dist loadgroup -m ""

# The adapters library needs an older transformers, and so an environment of its own.
ADAPTERS := $(VENV)/adapters

# Rows of real lengths need a local copy of GLUE: make bench DATA=/path, or without it, all but those sections.
# BENCH has further options, as "step --rounds 24".
DATA ?= $(wildcard ../shared/data)
TOKENIZER ?= $(wildcard ../shared/tokenizer/t5)

bench: setup $(ADAPTERS)/.installed
	$(BIN)/hyperadapt bench --adapters-python $(ADAPTERS)/bin/python $(if $(DATA),--data-dir $(DATA)) \
		$(if $(TOKENIZER),--tokenizer $(TOKENIZER)) --page docs/benchmarks.md $(BENCH)

$(ADAPTERS)/.installed:
	$(PYTHON) -m venv $(ADAPTERS)
	$(ADAPTERS)/bin/pip install --quiet torch==2.13.0 adapters==1.3.0
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache
