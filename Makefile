PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install quickstart test check format docs build clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo 'Installing into $(VENV) (about 2 GB); this takes a few minutes.'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first and alone: its pin decides which build everything else is resolved against.
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)

quickstart: install
	$(BIN)/harness run quickstart

test: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: install
	$(BIN)/ruff format --check harness evals tests benchmarks docs
	$(BIN)/ruff check harness evals tests benchmarks docs
	$(BIN)/mypy

format: install
	$(BIN)/ruff format harness evals tests benchmarks docs
	$(BIN)/ruff check --fix harness evals tests benchmarks docs

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo 'Open site/index.html, or with search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site'

build: install
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist site mlruns/harness mlflow.db .mypy_cache .ruff_cache .pytest_cache
