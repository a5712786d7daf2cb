# `make help` lists what there is. Everything is installed into .venv; nothing outside this folder changes.
# ARGS goes to the exporter: make demo ARGS=--web.listen-address=127.0.0.1:9000
PYTHON ?= python3
VENV := .venv
CONFIG ?= config.yaml
# Quoted for the shell, for any value.
quoted = '$(subst ','\'',$(1))'
# Programs run as `python -m`, because the first line of a script in .venv/bin breaks in paths with quotes.
RUN := $(call quoted,$(VENV)/bin/python)
# INSTALL=: uses the environment as it is.
INSTALL = { $(call quoted,$(PYTHON)) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
    echo 'make: Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }; } \
    && $(call quoted,$(PYTHON)) tools/environment.py $(call quoted,$(VENV))
LOCK := $(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
FAST := not slow and not e2e
# Tests that run make do not inherit the arguments of this one.
PYTEST := env -u MAKEFLAGS -u MAKELEVEL $(RUN) -m pytest --numprocesses=auto --dist=worksteal
SHIPPED = $$(sed -E -n 's/^([A-Za-z0-9._-]+)==.*/\1/p' requirements.txt)
# In the words of each package's own metadata, so one licence has several names.
SHIPPED_LICENCES := Apache-2.0; Apache-2.0 AND BSD-2-Clause; Apache-2.0 AND MIT; Apache Software License; BSD-3-Clause; \
    MIT; MIT License; MIT OR Apache-2.0; Mozilla Public License 2.0 (MPL 2.0); PSF-2.0; Python Software Foundation License
# Tools for tests and builds are not shipped, so hadolint and codespell, which are only run, may be under the GPL.
DEVELOPMENT_LICENCES := $(SHIPPED_LICENCES); 0BSD; Apache; Apache-2.0 OR BSD-2-Clause; Apache-2.0 OR BSD-3-Clause; \
    BSD-2-Clause; BSD License; GPL-2.0-only; GPL-3.0; ISC License (ISCL); MIT-0; MPL-2.0

HELM_VERSION := v3.19.2

.DEFAULT_GOAL := help
.PHONY: help runtime development demo run stack test test-all test-hard coverage mutants rule-mutants check actionlint audit licences package \
    release-files sbom helm helm-program kubernetes bench bench-requests soak faults pictures format lock schema dashboard clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

runtime:
	@$(INSTALL) requirements.txt

development:
	@$(INSTALL) requirements.txt requirements-dev.txt

demo: runtime ## Run the exporter against the bundled sandbox of the Batch API
	@$(RUN) exporter.py --demo $(ARGS)

run: runtime ## Run the exporter with config.yaml (CONFIG=path for another file)
	@$(RUN) exporter.py --config.file=$(call quoted,$(CONFIG)) $(ARGS)

stack: runtime ## Run the demo (or CONFIG=path) with Prometheus, its alerts and Alertmanager, without Docker
	@$(RUN) -m stack $(if $(filter file,$(origin CONFIG)),,--config.file=$(call quoted,$(CONFIG))) $(ARGS)

# They wait more than they compute, so four processes share two processors.
test: development ## Run the tests that need nothing but Python, in a minute
	$(PYTEST) --numprocesses=4 -m '$(FAST)' $(PYTEST_ARGS)

test-all: development ## Run all tests; some need Prometheus, Alertmanager or root
	$(PYTEST) $(PYTEST_ARGS)

test-hard: development ## Run `make test` under load, without a network, just booted and the like (as root; half an hour)
	tools/test_hard.sh $(call quoted,$(VENV)/bin/python)

coverage: development ## Run the tests of `make test`; fail if they cover less than 95 % of the branches
	$(PYTEST) -m '$(FAST)' --cov --cov-report=term --cov-fail-under=95 $(PYTEST_ARGS)

mutants: development ## Measure the power of the tests: do they fail for each small change of the core? (twenty minutes)
	@rm -rf mutants
	nice $(RUN) -m mutmut run --max-children 4
	@$(RUN) -m tools.mutants

rule-mutants: development ## Do the tests of the alert rules fail for each small change of a rule? (needs promtool; three minutes)
	@nice $(RUN) -m tools.rule_mutants $(ARGS)

check: development ## Lint, check spelling, links, types, imports and licences, look up known vulnerabilities (needs a network)
	$(RUN) -m ruff format --check
	$(RUN) -m ruff check
	$(RUN) -m codespell_lib
	$(RUN) -m tools.links
	$(RUN) -m mypy
	$(call quoted,$(VENV)/bin/hadolint) Dockerfile
	$(call quoted,$(VENV)/bin/zizmor) --offline --quiet --no-progress .github
	@$(MAKE) --no-print-directory actionlint
	$(RUN) -c 'from importlinter.cli import lint_imports_command as main; main()' --no-cache --no-logo
	@$(MAKE) --no-print-directory licences audit

# It is no package of Python. Go verifies what it fetches, and keeps what it builds.
actionlint: ## Lint the workflows, where actionlint or Go is installed
	@if command -v actionlint >/dev/null; then set -x; actionlint; \
	elif command -v go >/dev/null; then set -x; go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12; \
	else echo 'actionlint: SKIPPED, because neither actionlint nor Go is installed'; fi

# requirements-dev.txt holds all that the other two lock files do.
audit: development ## Look up known vulnerabilities of what is locked (ARGS=--strict: fail on what is not known)
	$(RUN) -m pip_audit --require-hashes --disable-pip --requirement requirements-dev.txt --progress-spinner=off $(ARGS)

licences: development ## List the licences of what is shipped, and fail on one that is not allowed
	@$(RUN) -m piplicenses --packages $(SHIPPED) --allow-only='$(SHIPPED_LICENCES)'
	@$(RUN) -m piplicenses --with-system --ignore-packages sitecore-cdp-batch-exporter $(SHIPPED) \
	    --allow-only='$(DEVELOPMENT_LICENCES)' --summary --order=count

# The same bytes wherever and whenever it runs; SOURCE_DATE_EPOCH sets another date than hatchling's own.
package: development ## Build the wheel and the source archive into dist/, and check them as PyPI would
	$(RUN) -m hatchling build
	$(RUN) -m twine check --strict dist/*.whl dist/*.tar.gz

# One list of what a release consists of, for the workflow and for whoever wants to look at it before. REGISTRY names
# where the image of the chart will be.
release-files: ## Make all files of a release in dist/, with their checksums (needs Helm)
	rm -rf dist
	@$(MAKE) --no-print-directory package sbom
	cp -R deploy/helm dist/chart
	sed 's|^  repository: |&$(addsuffix /,$(REGISTRY))|' deploy/helm/values.yaml > dist/chart/values.yaml
	PATH="$$(cd $(call quoted,$(VENV)) && pwd)/bin:$$PATH" helm package dist/chart --destination dist
	rm -r dist/chart
	cp prometheus/alerts.yml $(wildcard grafana/dashboards/*.json) dist
	cd dist && sha256sum * > SHA256SUMS

sbom: development ## Write dist/sbom.cdx.json, the CycloneDX bill of what is shipped
	@$(RUN) -m tools.sbom dist/sbom.cdx.json

RULE := deploy/kubernetes/prometheus-rule.yaml
# Without helm, so that whoever changes a rule or a dashboard needs none.
helm: ## Copy the alerts and dashboards to where the Helm chart and the PrometheusRule have them
	@rm -rf deploy/helm/files
	@mkdir -p deploy/helm/files/dashboards
	@cp prometheus/alerts.yml deploy/helm/files
	@cp grafana/dashboards/*.json deploy/helm/files/dashboards
	@{ sed '/^spec:$$/q' $(RULE); sed 's/^\(.\)/  \1/' prometheus/alerts.yml; } > $(RULE).new
	@mv $(RULE).new $(RULE)

kubernetes: helm development ## Render deploy/kubernetes from the Helm chart, and the snapshots of its tests (needs helm)
	@$(RUN) -m tools.chart

helm-program: development ## Build helm into the environment, where there is none on the PATH (needs Go, and minutes)
	GOBIN="$$(cd $(call quoted,$(VENV)) && pwd)/bin" go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)

bench: development ## Measure scrapes, encoding and memory against their limits (ARGS=--quick: two minutes)
	@$(RUN) -m tools.bench $(ARGS)

bench-requests: development ## Count the requests of scrapes, of a day and of a restart (takes minutes)
	$(RUN) -m tools.bench.requests_over_time

soak: development ## Run the exporter under everything that happens in production, for ten minutes (ARGS=--duration=1m)
	$(RUN) -m tools.soak $(ARGS)

faults: development ## Try every fault and write docs/reliability.md (as root: all of them)
	@$(RUN) -m tools.faults $(ARGS)

pictures: development ## Take the pictures of the documentation (needs Chromium)
	$(RUN) -m tools.pictures

format: development ## Format the code
	$(RUN) -m ruff format
	$(RUN) -m ruff check --fix

lock: development ## Resolve the dependencies again, into requirements*.txt
	$(LOCK) --upgrade pyproject.toml --output-file requirements.txt
	$(LOCK) --upgrade --constraint requirements.txt pyproject.toml --group dev --output-file requirements-dev.txt
	$(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	    | $(LOCK) --constraint requirements-dev.txt - --output-file requirements-build.txt

schema: development ## Write config.schema.json from the config models
	$(RUN) -m sitecore_cdp_exporter.config.model > config.schema.json

dashboard: development ## Write the Grafana dashboards from their code
	$(RUN) -m grafana.dashboard
	@$(MAKE) --no-print-directory helm

clean: ## Remove the virtual environment and all caches
	rm -rf $(call quoted,$(VENV)) .coverage .hypothesis mutants .mypy_cache .pytest_cache .ruff_cache
