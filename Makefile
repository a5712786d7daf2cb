# `make help` lists what there is. Everything is installed into .venv; nothing outside this folder changes.
# ARGS goes to the exporter: make demo ARGS=--web.listen-address=127.0.0.1:9000
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
CONFIG ?= config.yaml

.DEFAULT_GOAL := help
.PHONY: help demo run test check bench bench-requests pictures format lock schema clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

demo: $(INSTALLED) ## Run the exporter against the bundled sandbox of the Batch API
	@$(BIN)/python exporter.py --demo $(ARGS)

run: $(INSTALLED) ## Run the exporter with config.yaml (CONFIG=path for another file)
	@$(BIN)/python exporter.py --config.file=$(CONFIG) $(ARGS)

test: $(INSTALLED) ## Run the tests, with branch coverage (those marked e2e need Prometheus)
	$(BIN)/pytest --numprocesses=4 --dist=loadfile --cov --cov-report=term $(PYTEST_ARGS)

check: $(INSTALLED) ## Lint and check types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

bench: $(INSTALLED) ## Measure a scrape against the least it could take
	$(BIN)/python -m bench.scrape

bench-requests: $(INSTALLED) ## Count the requests of scrapes, of a day and of a restart (takes minutes)
	$(BIN)/python -m bench.requests

pictures: $(INSTALLED) ## Take the pictures of the documentation (needs Chromium)
	$(BIN)/python -m docs.take_pictures

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: $(INSTALLED) ## Resolve the dependencies anew into requirements*.txt
	$(LOCK) --upgrade pyproject.toml --output-file requirements.txt
	$(LOCK) --upgrade --constraint requirements.txt pyproject.toml --group dev --output-file requirements-dev.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	    | $(LOCK) --constraint requirements-dev.txt - --output-file requirements-build.txt

schema: $(INSTALLED) ## Write config.schema.json from the config models
	$(BIN)/python -m sitecore_cdp_exporter.config > config.schema.json

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(INSTALLED): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
