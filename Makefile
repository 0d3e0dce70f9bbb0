# Every task of the project. `make help` lists them; a test tier's name is its folder under tests/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= examples/quickstart/gateway.yaml
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --extra build

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the tasks
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set-up -------------------------------------------------------------------------------------
$(VENV)/run.stamp: requirements.lock pyproject.toml
	@echo "setting up $(VENV) (hash-pinned; the first time takes about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	@echo "adding the development tools"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.PHONY: setup
setup: $(VENV)/dev.stamp ## virtual environment with all development tools

.PHONY: lock
lock: $(VENV)/dev.stamp ## resolve the dependencies again and pin them by hash
	$(LOCK) --upgrade -o requirements.lock
	$(LOCK) --upgrade --extra dev --extra postgresql -o requirements-dev.lock
