# Every target makes .venv first, and again only where the pinned requirements or the project's own have changed.
PYTHON ?= python3
BIN := .venv/bin
BUILDER ?= $(shell for each in docker buildah; do command -v $$each && break; done)

.PHONY: install sweep test test-slow bench cluster-local cluster-local-stop cluster-files image lint format clean

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

# BUILD_ARGS="--build-arg EXTRAS=gcs,postgres" for what infra/docker/Dockerfile leaves open.
image: install
	$(if $(BUILDER),,$(error neither docker nor buildah is here to build the image))
	BUILDAH_LAYERS=true $(BUILDER) build --file infra/docker/Dockerfile $(BUILD_ARGS) \
	    --build-arg REVISION=$$(git describe --always --dirty --abbrev=40) \
	    --tag $$($(BIN)/python -c 'from cluster.configure import settings; print(settings()["image"])') .

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
