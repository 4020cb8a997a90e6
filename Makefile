# Every target sets up what it needs. `make quickstart` is the place to start; `make help` lists the rest.
PYTHON  ?= $(shell command -v python3)
FLAVOUR ?= cuda
RELEASE ?=
VENV    := .venv/ready
BIN     := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Whoever runs make here obeys this file already: its owner's other files are no more.
export SLIPWAY_TRUST ?= $(shell stat -c %u '$(CURDIR)')

# Tests that need no engine share nothing but this tree; those in tests/real share an engine, and run in one process.
WORKERS ?= 2
QUICK   := pytest --ignore=tests/real --numprocesses=$(WORKERS) --dist=worksteal

.PHONY: help quickstart check test test-quick test-long test-gpu images lock render engine clean-engine clean requirements
.DEFAULT_GOAL := help

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

# pip is told which interpreter to serve, so that neither ensurepip nor an activated environment is needed.
$(VENV): requirements.txt pyproject.toml
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --require-hashes --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

quickstart: engine ## from nothing to a trained checkpoint, and a check of it
	images build automodel --flavour cpu
	bash examples/quickstart/run.sh

check: $(VENV) ## formatting, lint, types, shell scripts, rendered files
	ruff format --check .
	ruff check .
	mypy
	shellcheck -x entrypoints/*.sh images/*/*.sh examples/*.sh examples/*/*.sh tests/gpu/*.sh .ci/run
	hadolint images/*/*/Dockerfile
	images render --check

test-quick: $(VENV) ## all tests that need no engine, two at a time
	$(QUICK)

test: check engine ## everything once: checks, those tests, then the real ones
	$(QUICK)
	pytest tests/real

test-long: check engine ## repeats and faults at every stage, too: takes hours
	$(QUICK) -m "long or not long"
	pytest -m "long or not long" tests/real

WHEELS  ?=
OPTIONS ?=
test-gpu: ## what runs in a container, on this machine's GPU, without an engine (docs/gpu.md; WHEELS=DIR, PYTHON=…)
	bash tests/gpu/run.sh "$(PYTHON)" "$(WHEELS)" $(OPTIONS)

IMAGES := image-automodel image-megatron-bridge image-modelopt image-nemo-rl
.PHONY: $(IMAGES)
images: $(IMAGES) ## build the four images (FLAVOUR=cuda|cpu, RELEASE=…, SOURCE=NAME=DIR); or one: image-nemo-rl
$(IMAGES): image-%: engine
	images build $* --flavour $(FLAVOUR) $(if $(RELEASE),--release $(RELEASE)) $(if $(SOURCE),--source $(SOURCE))

lock: $(VENV) ## resolve images/matrix.yaml into versions.lock
	images lock

render: $(VENV) ## render the committed Dockerfiles and entrypoints
	images render

engine: $(VENV) ## find the Docker engine, or install and start a private one
	images engine up

clean-engine: $(VENV) ## end the private engine and remove all that it had
	images engine down

requirements: $(VENV) ## pin what the project itself runs on, from pyproject.toml
	uv pip compile pyproject.toml --extra dev --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --quiet --output-file requirements.txt

clean: ## remove the virtual environment and caches; runs and images stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist
