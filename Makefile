# Everything happens in a virtual environment in .venv, made on first use; nothing else on the machine is changed.
# Another Python: make clean, then make demo PYTHON=python3.13

PYTHON ?= python3
VENV = .venv
#: Test processes at once, and what is tested: make test TESTS=tests/unit
JOBS = 4
TESTS = tests
#: The suite that works in the test's own process alone, and the least part of the lines that it must execute, in percent.
#: Measuring costs about half of its own time; workers and jobs of the other suites must not be slowed.
MEASURED = tests/unit
LEAST_COVERAGE = 44
#: Groups of the benchmark; none is all: make bench-quick GROUPS='speed growth'
GROUPS =
#: Systems and faults of the comparison; none is all: make compare SYSTEMS='celery ours' FAULTS='kill freeze'
SYSTEMS =
FAULTS =
#: Examples of each property that `make fuzz` tries, and the tests that have properties of what others write.
FUZZ = 2000
FUZZED = tests/security/test_queue_elements.py tests/security/test_server.py tests/redis/store/test_damage.py \
	tests/redis/archive/test_questions.py tests/unit/test_redis_url.py tests/unit/model tests/unit/untrusted tests/unit/api/test_filters.py
SEED = 1
DURATION = 600

BIN = $(VENV)/bin
MADE = $(VENV)/.made
INSTALLED = $(VENV)/.installed
INSTALLED_DEV = $(VENV)/.installed-dev
# The tools of `make audit` and `make sbom`, and what is installed for the list that the latter writes
AUDIT = $(VENV)/audit
SBOM = $(VENV)/sbom
#: What the list of `make sbom` is of, as the build argument of deploy/Dockerfile: image, or full with all extras
REQUIREMENTS = image
#: UPGRADE=1 has `make requirements` take the newest versions, else only what pyproject.toml has changed
UPGRADE =
# A machine may forbid bytecode: every command would then compile its imports anew, and every test process all tests.
WITH_BYTECODE = env -u PYTHONDONTWRITEBYTECODE
PYTEST = $(WITH_BYTECODE) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
PIP = $(WITH_BYTECODE) $(BIN)/python -m pip --quiet --disable-pip-version-check
# Only files whose hashes are in requirements/, and only wheels: to install one executes nothing of it.
HASHED = install --compile --require-hashes --only-binary :all:

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Every target with a name of small letters
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## show this text
	@echo 'usage: make TARGET'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## run one training job through a private Redis, a worker, beat and the web page
	$(BIN)/launch-worker dev --temporary -- $(BIN)/python examples/train_iris.py --epochs 20

installed: $(INSTALLED_DEV)

test: $(INSTALLED_DEV) ## run the whole test suite
ifeq ($(TESTS),tests)
	$(PYTEST) --cov --cov-fail-under=$(LEAST_COVERAGE) $(MEASURED); measured=$$?; \
	$(PYTEST) $(addprefix --ignore=,$(MEASURED)) $(TESTS) && exit $$measured
else
	$(PYTEST) $(TESTS)
endif

coverage: $(INSTALLED_DEV) ## run the whole test suite, slower, and measure workers, beats and commands too
	$(PYTEST) --cov --cov-config=tests/coverage.ini $(TESTS)

matrix: ## the unit and Redis suites on each supported Python of this machine
	$(PYTHON) -m tests.matrix

matrix-full: ## every suite on each pair of a Python and a server, for hours
	$(PYTHON) -m tests.matrix --full

walk: ## as root: go through README, tutorial and how-tos as a new user, on bare accounts, in some minutes
	$(PYTHON) -m tests.walk --log docs/walk.md

chaos: $(INSTALLED_DEV) ## kill, freeze, cut and fill at random for 10 minutes; make chaos SEED=2 DURATION=60
	$(BIN)/python -m tests.chaos --seed $(SEED) --duration $(DURATION)

fuzz: $(INSTALLED_DEV) ## hostile elements, records, requests, names and URLs at random; make fuzz FUZZ=10000 TESTS=tests/security
	FUZZ=$(FUZZ) $(WITH_BYTECODE) $(BIN)/python -m pytest -n $(JOBS) --timeout=0 $(if $(filter tests,$(TESTS)),$(FUZZED),$(TESTS))

bench: $(INSTALLED_DEV) ## measure beside six peers and the machine's limit, under 12 minutes; make bench SERVER=both
	$(WITH_BYTECODE) $(BIN)/python -m bench $(if $(SERVER),--server $(SERVER)) $(GROUPS)

bench-quick: $(INSTALLED_DEV) ## the same with fewer systems and smaller numbers, under 2 minutes
	$(WITH_BYTECODE) $(BIN)/python -m bench --quick $(if $(SERVER),--server $(SERVER)) $(GROUPS)

bench-history: $(INSTALLED_DEV) ## draw the kept figures of commits over time
	$(BIN)/python -m bench.history

compare: $(INSTALLED_DEV) ## kill everything: the same faults on us and on our peers, under 20 minutes; SYSTEMS='ours rq' FAULTS='kill'
	$(WITH_BYTECODE) $(BIN)/python -m bench.kill --systems $(SYSTEMS) --faults $(FAULTS)

lint: $(INSTALLED_DEV) ## check style, formatting and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

check: lint types types-js ## lint, check the types, and who imports whom

types: $(INSTALLED_DEV)
	$(BIN)/mypy
	$(BIN)/lint-imports

types-js: ## check the types of the pages' scripts; it needs npm, and without it does nothing
	@if command -v npx >/dev/null; then npx --yes --package=typescript@7.0.2 tsc --project tsconfig.json; \
	else echo 'npm is not here: the types of the scripts are not checked'; fi

hooks: $(INSTALLED_DEV) ## let git check what is committed, by the tools of `make check`
	$(BIN)/pre-commit install

format: $(INSTALLED_DEV) ## mend what lint can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

maps: ## draw the pictures and write the tree of docs/architecture.md anew
	$(PYTHON) docs/pictures/draw.py
	$(PYTHON) docs/package_tree.py

pictures: $(INSTALLED_DEV) ## photograph every page for the docs, in both themes
	$(BIN)/python docs/pictures/pages.py

recording: $(INSTALLED_DEV) ## record a run that outlives its worker, for the README
	$(BIN)/python docs/pictures/recording.py

captures: $(INSTALLED_DEV) ## keep what every command prints on terminals of 80 and 200 columns, for the docs
	$(BIN)/python docs/pictures/commands.py

openapi: $(INSTALLED_DEV) ## write the description of the server's API, docs/openapi.json, anew
	$(BIN)/python docs/openapi.py

reference: openapi ## write the pages of docs/reference that the code decides anew: commands, settings, API, metrics
	$(BIN)/python -m tools.reference

docs: $(INSTALLED_DEV) ## build the site of the docs into build/site, from nothing but this folder
	$(BIN)/python -m tools.site

assets: $(INSTALLED) ## fetch the scripts of others that browsers get, by npm, into launch_worker/server/static/vendor
	$(BIN)/python tools/assets.py

requirements: $(INSTALLED_DEV) ## choose versions for pyproject.toml, and write them with hashes into requirements/
	$(BIN)/python -m tools.requirements $(if $(UPGRADE),--upgrade)

audit: $(AUDIT)/.installed ## ask PyPI for known vulnerabilities in what requirements/ has
	$(BIN)/python -m tools.audit $(AUDIT)/bin/pip-audit

sbom: $(AUDIT)/.installed $(INSTALLED_DEV) ## write what the image installs, with licences, into dist/, as CycloneDX has it
	$(PYTHON) -m venv --clear --without-pip $(SBOM)
	$(PIP) --python $(SBOM)/bin/python $(HASHED) --no-compile -r requirements/$(REQUIREMENTS).txt
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir $(SBOM)/wheel .
	$(PIP) --python $(SBOM)/bin/python install --no-deps --no-index --find-links $(SBOM)/wheel launch_worker
	mkdir -p dist
	$(AUDIT)/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
	    --output-file dist/launch_worker-$(REQUIREMENTS).cdx.json $(SBOM)/bin/python

release: sbom ## build wheel, sdist, image, SBOM and checksums into dist/, and try the wheel on each Python of this machine
	$(BIN)/python -m tools.release release

bundle: $(INSTALLED_DEV) ## write one tar into dist/ from which a machine without a network installs all
	$(BIN)/python -m tools.release bundle

clean: ## delete .venv and every cache
	rm -rf $(VENV) bench/.peers .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist
	find launch_worker tests examples bench -name __pycache__ -type d -exec rm -rf {} +

$(MADE):
	@$(PYTHON) -c '' 2>/dev/null || \
	    { echo >&2 'make: $(PYTHON) does not start; name a Python of 3.11 or newer with: make PYTHON=...'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo >&2 'make: $(PYTHON) is too old; name a Python of 3.11 or newer with: make PYTHON=...'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo >&2 'make: $(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv'; exit 1; }
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(INSTALLED): pyproject.toml requirements/image.txt requirements/build.txt | $(MADE)
	@echo 'installing launch_worker into $(VENV)'
	@$(PIP) $(HASHED) -r requirements/image.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(WITH_BYTECODE) $(BIN)/python -m compileall -q launch_worker
	@touch $@

$(INSTALLED_DEV): requirements/dev.txt $(INSTALLED)
	@echo 'installing the development tools into $(VENV)'
	@$(PIP) $(HASHED) -r requirements/dev.txt
	@touch $@

$(AUDIT)/.installed: requirements/audit.txt | $(INSTALLED)
	@echo 'installing the tools for audits into $(AUDIT)'
	@$(PYTHON) -m venv --clear --without-pip $(AUDIT)
	@$(PIP) --python $(AUDIT)/bin/python $(HASHED) -r requirements/audit.txt
	@touch $@
