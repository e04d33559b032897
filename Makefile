# make setup       .venv with everything pinned in constraints.txt
# make quickstart  train, evaluate and predict on a small example, with nothing to download
# make test        lint, types and tests
# make clean       remove what the above made

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup quickstart test lint types clean
.DELETE_ON_ERROR:

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

quickstart: setup
	rm -rf runs/quickstart runs/quickstart-tasks
	$(BIN)/python examples/quickstart/make_tasks.py runs/quickstart-tasks
	$(BIN)/hyperadapt train configs/quickstart.yaml
	$(BIN)/hyperadapt evaluate runs/quickstart --split test
	@echo 'One sentence, three tasks:'
	@for task in feeling kind time; do \
		echo '{"text": "my owl will be happy by the sea"}' \
		| $(BIN)/hyperadapt predict runs/quickstart --task $$task || exit 1; \
	done
	@echo 'The run lies in runs/quickstart; its scores in runs/quickstart/results.json'

test: lint types
	$(BIN)/pytest -n 2 --dist loadgroup

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache
