# Ferry's commands. Bare `make` lists them; .ci/run calls the same ones.
#
# What a target needs is installed into $(VENV) before it runs, once, and again when the pins or
# pyproject.toml change. Two stamp files remember that. Each is touched last, so that an interrupted
# installation is simply done again. To try another Python beside the first:
#
#     make test VENV=.venv-3.13 PYTHON=python3.13

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
LOCK_ARGS ?=
SOAK_ARGS ?= --seconds 600
MODEL_ARGS ?=
SIMULATE_ARGS ?=
BENCH_ARGS ?=
ONE_COMMIT := tests/integration/test_push_pipeline.py::test_a_commit_made_over_http_reaches_the_remote

# A run of the tests starts some hundred processes, which would compile the same modules each time.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
PINS := $(VENV)/.pins-installed
READY := $(VENV)/.ferry-installed
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet
PIP_INSTALL_PINS := $(BIN)/python $(PIP_INSTALL) --no-deps --no-compile --require-hashes --requirement
HARDLY_IMPORTED := /(mypyc?|pip|pygments/lexers|selenium/webdriver/common/devtools)/

.DEFAULT_GOAL := help
# What the image's labels say; its time is the commit's, so that a build of the same commit says the same.
IMAGE ?= ferry:local
PROJECT_VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
SOURCE = $(or $(shell git remote get-url origin 2>/dev/null | sed 's,//[^/@]*@,//,'),unknown)
CREATED = $(shell TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null || echo unknown)

.PHONY: extensions troubles image version matrix release docs docs-check licences audit sbom help demo example test pytest test-quick image-test soak model simulate siege fuzz bench lint format types lock clean

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## Show the main job: commits made over HTTP arrive at a remote
	$(BIN)/ferry demo

example: $(READY) ## Start the example application of examples/town, and print commands to try; Ctrl-C ends it
	@$(BIN)/python examples/town/start.py

test: lint $(READY) ## Run all that CI runs: lint, types and pytest (PYTEST_ARGS="-x -k push")
	@# mypy has work for one processor only, and the tests begin meanwhile.
	@$(MAKE) --no-print-directory --jobs=2 types pytest

pytest: $(READY) ## Run only the tests (PYTEST_ARGS="-x -k push")
	@# Four on two processors: the tests wait for half of their time.
	$(BIN)/python -m pytest --numprocesses=4 --dist=worksteal $(PYTEST_ARGS)

test-quick: $(READY) ## Run the unit tests and one commit's way through real processes, in a minute
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal $(PYTEST_ARGS) tests/unit $(ONE_COMMIT)

image: ## Build the image ferry:local, labelled with version, revision, source and time (IMAGE=registry/ferry:0.1.0)
	docker build $(DOCKER_BUILD_ARGS) --tag $(IMAGE) \
	    --build-arg VERSION=$(PROJECT_VERSION) --build-arg REVISION="$(REVISION)" \
	    --build-arg SOURCE="$(SOURCE)" --build-arg CREATED="$(CREATED)" .

version: ## Print the version
	@echo $(PROJECT_VERSION)

matrix: $(READY) ## Run demo and test on fresh Debian and Ubuntu systems, as root (MATRIX_ARGS="debian-12 --demo-only")
	$(BIN)/python -m tests.deployment.matrix $(MATRIX_ARGS)

image-test: $(READY) ## Build the image, run it, compose and the chart's pod; needs a Docker engine
	$(BIN)/python -m tests.deployment.image $(PARTS)

lint: $(READY) ## Check the code's rules, its format, and its imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: $(READY) ## Format the code and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY) ## Check the types
	$(BIN)/mypy

lock: ## Recompile requirements/*.txt on Python 3.11 (LOCK_ARGS=--upgrade for newer versions)
	@$(PYTHON) -c "$$LOCK_NEEDS"
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python $(PIP_INSTALL) pip-tools==7.6.2
	$(PIP_COMPILE) --output-file requirements/run.txt pyproject.toml requirements/run.in
	$(PIP_COMPILE) --output-file requirements/dev.txt --constraint requirements/run.txt \
	    --extra dev --extra docs --extra otel --extra release --extra test pyproject.toml requirements/dev.in
	$(PIP_COMPILE) --output-file requirements/otel.txt --constraint requirements/dev.txt \
	    --extra otel pyproject.toml requirements/run.in
	$(PIP_COMPILE) --output-file requirements/build.txt --constraint requirements/dev.txt requirements/build.in

soak: $(READY) ## Ten minutes each of kills, power cuts and a long run compressed (SOAK_ARGS="--seconds 60")
	$(BIN)/python -m tests.storm $(SOAK_ARGS)
	$(BIN)/python -m tests.level $(SOAK_ARGS)
	$(BIN)/python -m tests.crash_images $(SOAK_ARGS)

model: $(READY) ## Compare the answers to random requests with a model of the API (MODEL_ARGS="--seed 7 --steps 20000")
	$(BIN)/python -m tests.model $(MODEL_ARGS)

simulate: $(READY) ## Run the decisions about pushes in simulated worlds, a million steps (SIMULATE_ARGS="--seed 7 --steps 20000")
	$(BIN)/python -m tests.simulation $(SIMULATE_ARGS)

siege: $(READY) ## Attack the API with slow, many and greedy clients, on loopback (SIEGE_ARGS="--scale 0.5")
	$(BIN)/python -m tests.siege $(SIEGE_ARGS)

fuzz: $(READY) ## Send odd requests to an API over odd repositories (FUZZ_ARGS="--minutes 10")
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

bench: $(READY) ## Measure each figure and its floor in the same run (BENCH_ARGS="--json", BENCH_ARGS="burst ssh")
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(READY) ## Build docs/ as a site into site/, warnings as errors
	$(BIN)/zensical build --strict

troubles: $(READY) ## Cause twelve failures and record what page and commands show; needs Chromium and root
	$(BIN)/python -m tests.docs.troubles

docs-check: $(READY) ## Run the commands of the tutorial and the how-tos
	$(BIN)/python -m tests.docs.check

extensions: $(READY) ## Write the reference of extensions from the docstrings
	$(BIN)/python -m tests.docs.extensions

licences: $(READY) ## Write the list of licences of all installed packages
	$(BIN)/python -m tests.docs.licences

audit: $(READY) ## Look for known vulnerabilities of the pinned packages; needs the network
	@# Strict, or a package that could not be looked up would count as free of them.
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements/run.txt

sbom: $(READY) ## Write dist/sbom.json, the packages of a deployment (CycloneDX)
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements requirements/run.txt --pyproject pyproject.toml --output-file dist/sbom.json

release: $(READY) ## Set the version, write the changelog, build into dist/ (VERSION=0.2.0); commits nothing
	$(BIN)/python -m tests.deployment.release $(VERSION)

clean: ## Remove everything that other targets made, also the virtual environments
	rm -rf .venv .venv-* site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find app worker ferry tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(PINS): requirements/dev.txt
	@command -v git >/dev/null || { echo "Ferry needs git: apt install git" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c "$$NEEDS"
	@echo "Installing the pinned packages into $(VENV); a minute or so, once."
	$(PYTHON) -m venv --clear $(VENV)
	@# All are pinned, with what they need. A pip uses one processor: once the pinned pip is there, two of it install
	@# half of the packages each.
	@awk '/^[a-z]/ { half = 1 - half; part = /^pip==/ ? "pip" : half } part != "" { print > ("$(VENV)/pins-" part) }' $<
	$(PIP_INSTALL_PINS) $(VENV)/pins-pip
	@$(PIP_INSTALL_PINS) $(VENV)/pins-0 & first=$$!; $(PIP_INSTALL_PINS) $(VENV)/pins-1; second=$$?; \
	    wait $$first && exit $$second
	@# pip compiles one file after the other; this uses all processors. It leaves out what is hardly imported.
	@$(BIN)/python -m compileall -qq -j 0 -x '$(HARDLY_IMPORTED)' $(VENV)/lib || true # some files are for other Pythons
	@touch $@

$(READY): $(PINS) pyproject.toml
	@ln -sfn ../app ferry/app && ln -sfn ../worker ferry/worker # an sdist has no links
	$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# No registry, no path of this machine, no extras: the output installs anywhere and serves as constraints.
PIP_COMPILE = CUSTOM_COMPILE_COMMAND="make lock" .venv-lock/bin/pip-compile --quiet --generate-hashes \
    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --allow-unsafe $(LOCK_ARGS)

# Written for any Python, so that an old one can still say what is wrong.
define NEEDS
import sys
version = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    sys.exit("Ferry needs Python 3.11 or newer; %s is %s. Name another: make PYTHON=python3.11 ..."
             % (sys.executable, version))
try:
    import ensurepip, venv
except ImportError:
    sys.exit("Python %s cannot make virtual environments yet: apt install python%s-venv" % (version, version))
endef
export NEEDS

define LOCK_NEEDS
import sys
if sys.version_info[:2] != (3, 11):
    sys.exit("Pins are made on the oldest Python that Ferry supports: make lock PYTHON=python3.11")
endef
export LOCK_NEEDS
