# Every target makes .venv first, and again only where the pinned requirements or the project's own have changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install sweep test test-slow bench cluster-local cluster-local-stop cluster-files lint format clean

install: .venv/.installed

.venv/.installed: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

sweep: install
	$(BIN)/python jobs/sweep.py

test: install
	$(BIN)/python -m pytest -m "not slow and not bench"

test-slow: install
	$(BIN)/python -m pytest -m slow

bench: install
	$(BIN)/python -m pytest -m bench -s tests/benchmarks

cluster-local: install
	$(BIN)/python cluster/local.py start

cluster-local-stop: install
	$(BIN)/python cluster/local.py stop

cluster-files: install
	$(BIN)/python cluster/configure.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
