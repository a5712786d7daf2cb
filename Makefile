# `make help` lists what there is. Everything is installed into .venv; nothing outside this folder changes.
# ARGS goes to the exporter: make demo ARGS=--web.listen-address=127.0.0.1:9000
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
CONFIG ?= config.yaml
SHIPPED = $$(sed -E -n 's/^([A-Za-z0-9._-]+)==.*/\1/p' requirements.txt)
# In the words of each package's own metadata, so one licence has several names.
SHIPPED_LICENCES := Apache-2.0; Apache-2.0 AND BSD-2-Clause; Apache-2.0 AND MIT; Apache Software License; BSD-3-Clause; \
    MIT; MIT License; MIT OR Apache-2.0; Mozilla Public License 2.0 (MPL 2.0); PSF-2.0; Python Software Foundation License
# What tests and builds is not shipped, so hadolint, a program that is only run, may be under the GPL.
DEVELOPMENT_LICENCES := $(SHIPPED_LICENCES); 0BSD; Apache; Apache-2.0 OR BSD-2-Clause; Apache-2.0 OR BSD-3-Clause; \
    BSD-2-Clause; BSD License; GPL-3.0; ISC License (ISCL); MIT-0; MPL-2.0

.DEFAULT_GOAL := help
.PHONY: help demo run stack test coverage check audit licences sbom kubernetes bench bench-requests soak faults pictures format lock schema dashboard clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

demo: $(INSTALLED) ## Run the exporter against the bundled sandbox of the Batch API
	@$(BIN)/python exporter.py --demo $(ARGS)

run: $(INSTALLED) ## Run the exporter with config.yaml (CONFIG=path for another file)
	@$(BIN)/python exporter.py --config.file='$(CONFIG)' $(ARGS)

stack: $(INSTALLED) ## Run the demo (or CONFIG=path) with Prometheus, its alerts and Alertmanager, without Docker
	@$(BIN)/python -m stack $(if $(filter file,$(origin CONFIG)),,--config.file='$(CONFIG)') $(ARGS)

test: $(INSTALLED) ## Run the tests (those marked e2e need Prometheus and Alertmanager)
	$(BIN)/pytest --numprocesses=4 --dist=loadfile $(PYTEST_ARGS)

coverage: $(INSTALLED) ## Run the tests, and measure the branches that they cover; it takes twice as long
	$(BIN)/pytest --numprocesses=4 --dist=loadfile --cov --cov-report=term $(PYTEST_ARGS)

check: $(INSTALLED) ## Lint, check types and licences, look up known vulnerabilities
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	@$(MAKE) --no-print-directory licences audit

audit: $(INSTALLED) ## Look up known vulnerabilities of what is locked (ARGS=--strict fails if it can not)
	@$(BIN)/python -m supply_chain.audit $(ARGS)

licences: $(INSTALLED) ## List the licences of what is shipped, and fail on one that is not allowed
	@$(BIN)/pip-licenses --packages $(SHIPPED) --allow-only='$(SHIPPED_LICENCES)'
	@$(BIN)/pip-licenses --with-system --ignore-packages sitecore-cdp-batch-exporter $(SHIPPED) \
	    --allow-only='$(DEVELOPMENT_LICENCES)' --summary --order=count

# Of an environment that has nothing else, because only there the tool finds licences and who needs whom.
sbom: $(INSTALLED) ## Write dist/sbom.cdx.json, the CycloneDX bill of what is shipped
	@environment=$$(mktemp -d) && trap 'rm -rf "$$environment"' EXIT \
	    && $(BIN)/python -m venv --without-pip "$$environment" \
	    && $(BIN)/python -m pip --python "$$environment/bin/python" install --quiet --disable-pip-version-check \
	        --require-hashes --requirement requirements.txt \
	    && version=$$($(BIN)/python -c 'from sitecore_cdp_exporter import __version__; print(__version__)') \
	    && sed "s/^dynamic = .*/version = \"$$version\"/" pyproject.toml > "$$environment/pyproject.toml" \
	    && mkdir -p dist \
	    && $(BIN)/cyclonedx-py environment --pyproject "$$environment/pyproject.toml" --output-reproducible \
	        --output-file dist/sbom.cdx.json "$$environment"

kubernetes: ## Write the PrometheusRule from prometheus/alerts.yml
	@{ printf '%s\n' '# Made from prometheus/alerts.yml by `make kubernetes`: change it there.' \
	    'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata:' \
	    '  name: sitecore-cdp-batch-exporter' '  labels:' \
	    '    app.kubernetes.io/name: sitecore-cdp-batch-exporter' 'spec:'; \
	    sed 's/^\(.\)/  \1/' prometheus/alerts.yml; } > deploy/kubernetes/prometheus-rule.yaml

bench: $(INSTALLED) ## Measure scrapes, encoding and memory beside their limits (ARGS=--quick: two minutes)
	@$(BIN)/python -m tools.bench $(ARGS)

bench-requests: $(INSTALLED) ## Count the requests of scrapes, of a day and of a restart (takes minutes)
	$(BIN)/python -m tools.bench.requests_over_time

soak: $(INSTALLED) ## Run the exporter under all that happens in production, for ten minutes (ARGS=--duration=1m)
	$(BIN)/python -m tools.soak $(ARGS)

faults: $(INSTALLED) ## Try every fault and write docs/reliability.md (as root: all of them)
	@$(BIN)/python -m tools.faults $(ARGS)

pictures: $(INSTALLED) ## Take the pictures of the documentation (needs Chromium)
	$(BIN)/python -m tools.pictures

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: $(INSTALLED) ## Resolve the dependencies anew into requirements*.txt
	$(LOCK) --upgrade pyproject.toml --output-file requirements.txt
	$(LOCK) --upgrade --constraint requirements.txt pyproject.toml --group dev --output-file requirements-dev.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	    | $(LOCK) --constraint requirements-dev.txt - --output-file requirements-build.txt

schema: $(INSTALLED) ## Write config.schema.json from the config models
	$(BIN)/python -m sitecore_cdp_exporter.config.model > config.schema.json

dashboard: $(INSTALLED) ## Write the Grafana dashboard from its code
	$(BIN)/python -m grafana.dashboard > grafana/dashboards/sitecore-cdp-batches.json

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
