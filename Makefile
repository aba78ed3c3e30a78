# One command for each job; CI runs `make check` and `make test`.
# What .venv is made with; naming another one makes it anew: `make test PYTHON=python3.13`, or beside it with VENV=.venv-3.13.
VENV ?= .venv
PYTHON ?= $(if $(wildcard $(VENV)/.made),$(VENV)/bin/python,python3)
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --disable-pip-version-check
# How often a benchmark is repeated, and how large a table is: `make bench ROUNDS=5 SECONDS=10 PLOT=1`.
ROUNDS ?= 3
ROWS ?= 1000000,10000000
# Where a release is built.
DIST ?= dist
# The real ClickHouse server that tests run against: ClickHouse's own engine and handlers, shipped on npm.
CLICKHOUSE_VERSION := 26.7.3-stable.1
CLICKHOUSE_ARCH := $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x64)
# The chart library of /dashboard: its files are in service/static/vendor, and a test compares them with its package.
UPLOT_VERSION := 1.6.32
UPLOT := .tools/uplot-$(UPLOT_VERSION)/package.json
# The client for Node of which a test asks the SQL port.
NODE_CLIENT := .tools/clickhouse-client-1.23.1/node_modules/.made
TRACKER := tracker/node_modules/.made
CLICKHOUSE := .tools/clickhouse-$(CLICKHOUSE_VERSION)/libchdb.so

# uv trusts the certificates that the machine trusts, as pip and npm do.
export UV_SYSTEM_CERTS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help machine setup lock release run test quick chaos sweep model demo tracker vendor screenshots check format bench \
	bench-latency bench-stats bench-ids bench-start bench-outage bench-profile bench-insert bench-sql bench-tracker dashboard clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: machine $(VENV)/.dev $(TRACKER)  ## make .venv with everything in it

machine:
	@$(PYTHON) tests/machine.py build

lock: setup  ## renew the lock files in requirements after a change of setup.cfg; UPGRADE=1 for the newest of everything
	$(BIN)/python -m tests.lock $(if $(UPGRADE),--upgrade)

release: setup  ## build wheel and sdist in dist, check them, and serve from the wheel in an empty environment
	rm -f $(DIST)/analytics-*
	$(BIN)/python -m build --quiet --installer uv --outdir $(DIST) .
	$(BIN)/twine --no-color check --strict $(DIST)/*
	$(BIN)/python -m tests.release $(DIST)

run: $(VENV)/.embedded  ## serve, with ClickHouse embedded
	$(BIN)/analytics serve

test:  ## run every test, three at a time; or one after the other those in ARGS='tests/spool -k some'
	@$(PYTHON) tests/machine.py $(if $(ARGS),build,test)
	@$(MAKE) --no-print-directory $(VENV)/.dev $(TRACKER) $(CLICKHOUSE) $(UPLOT) $(NODE_CLIENT)
	$(BIN)/pytest $(or $(ARGS),--numprocesses=3 --dist=worksteal --durations=15)

quick: $(VENV)/.dev  ## the fast half of the tests, which needs nothing but Python: no server, no process of the service
	$(BIN)/pytest -m "quick and not starts" --numprocesses=3 --dist=worksteal $(ARGS)

chaos: setup $(CLICKHOUSE)  ## random faults under load, SECONDS=600 SEED=7
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS))

sweep: setup $(CLICKHOUSE)  ## every disk call fails once, in every way, SEED=7 SECONDS=60 for a part of it
	$(BIN)/python -m tests.sweep $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

model: setup  ## random lives of segments against a ClickHouse that does its worst, SECONDS=600 SEED=7
	$(BIN)/python -m tests.model.explore $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS))

demo: $(VENV)/.embedded  ## a page that is tracked, with the service that takes its events
	$(BIN)/python -m tests.demo

tracker: $(TRACKER)  ## build service/static/tracker.js
	cd tracker && npm run --silent build
	cp tracker/dist/tracker.js service/static/tracker.js

vendor: $(UPLOT)  ## renew the chart library in service/static/vendor
	cp $(dir $(UPLOT))dist/uPlot.iife.min.js $(dir $(UPLOT))dist/uPlot.min.css service/static/vendor/
	cp $(dir $(UPLOT))LICENSE service/static/vendor/uPlot.LICENSE

screenshots: setup $(CLICKHOUSE)  ## the pictures of the dashboard in docs/images
	$(BIN)/python -m tests.screenshots

check: setup  ## lint, types, import contract, Dockerfile, YAML
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint --failure-threshold style Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/yamllint --strict -d '{extends: default, rules: {line-length: {max: 120}}}' compose.yaml docs
	cd tracker && npm run --silent check
	tracker/node_modules/.bin/biome ci --config-path=tracker/biome.json service/static/dashboard/*.js

format: setup  ## put the code into the usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd tracker && npm run --silent format
	tracker/node_modules/.bin/biome check --write --config-path=tracker/biome.json service/static/dashboard/*.js

bench: setup $(CLICKHOUSE)  ## requests a second, in turn with the usual kind of service
	$(BIN)/python -m tests.bench.run --rounds $(ROUNDS) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(PLOT),--plot docs/performance.svg) $(ARGS)

bench-latency: setup $(CLICKHOUSE)  ## latency at half of the peak rate
	$(BIN)/python -m tests.bench.latency $(ARGS)

bench-ids: setup $(CLICKHOUSE)  ## look-ups of ids that clients made, IDS=1000000,100000000
	$(BIN)/python -m tests.bench.ids $(if $(IDS),--ids $(IDS)) $(ARGS)

bench-stats: setup $(CLICKHOUSE)  ## statistics at size, and bytes on disk
	$(BIN)/python -m tests.bench.stats --rows $(ROWS) $(ARGS)

bench-start: setup $(CLICKHOUSE)  ## from the start to the first answer
	$(BIN)/python -m tests.bench.start $(ARGS)

bench-outage: setup $(CLICKHOUSE)  ## ClickHouse away for SECONDS=1200 of full load, a kill -9, and the way back
	$(BIN)/python -m tests.bench.outage $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

bench-sql: setup $(CLICKHOUSE)  ## single events beside full scans by the SQL port
	$(BIN)/python -m tests.bench.sql $(ARGS)

bench-tracker: setup $(CLICKHOUSE)  ## what tracking costs a page
	$(BIN)/python -m tests.bench.tracker $(ARGS)

bench-profile: setup $(CLICKHOUSE)  ## where the microseconds go
	$(BIN)/python -m tests.bench.hotspots $(ARGS)

bench-insert: setup $(CLICKHOUSE)  ## compare the ways to insert rows
	$(BIN)/python -m tests.bench.insert $(ARGS)

dashboard: setup  ## make the Grafana dashboard anew
	$(BIN)/python docs/monitoring/dashboard.py

clean:  ## remove what the other targets made, but for data
	rm -rf .venv .venv-* .tools tracker/node_modules tracker/dist .hypothesis .schemathesis .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info

ifneq ($(origin PYTHON),file)
ANOTHER_PYTHON := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' | cmp -s - $(VENV)/.made || echo FORCE)
endif

FORCE:

$(VENV)/.made: $(ANOTHER_PYTHON)
	@$(PYTHON) tests/machine.py python
	$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -c 'import platform; print(platform.python_version())' >$@

$(VENV)/.embedded: $(VENV)/.made setup.cfg pyproject.toml
	@echo "Installing the service and ClickHouse into $(VENV): 0.9 GB, about a minute"
	$(PIP) --editable '.[embedded]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made setup.cfg pyproject.toml
	@echo "Installing the service, ClickHouse and what the tests need into $(VENV): 1.4 GB, two minutes or so"
	$(PIP) --no-compile --editable '.[embedded,dev,bench]'
	@touch $(VENV)/.embedded $@

$(TRACKER): tracker/package.json tracker/package-lock.json
	@echo "Installing what builds the tracker into tracker/node_modules"
	cd tracker && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

$(CLICKHOUSE):
	@echo "Fetching a ClickHouse server for the tests into .tools"
	mkdir -p $(@D)
	cd $(@D) && npm pack --silent @chdb/lib-linux-$(CLICKHOUSE_ARCH)-gnu@$(CLICKHOUSE_VERSION) >/dev/null
	cd $(@D) && tar --extract --gzip --strip-components=1 --file chdb-lib-*.tgz && rm chdb-lib-*.tgz
	@touch $@

$(NODE_CLIENT):
	@echo "Fetching @clickhouse/client for the tests into .tools"
	mkdir -p $(@D)
	cd $(@D)/.. && echo '{}' >package.json  # so that npm installs here, as its user has set it up
	cd $(@D)/.. && npm install --silent --ignore-scripts --no-audit --no-fund @clickhouse/client@1.23.1
	@touch $@

$(UPLOT):
	mkdir -p $(@D)
	cd $(@D) && npm pack --silent uplot@$(UPLOT_VERSION) >/dev/null
	cd $(@D) && tar --extract --gzip --strip-components=1 --touch --file uplot-*.tgz && rm uplot-*.tgz
