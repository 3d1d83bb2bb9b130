# One file, few targets: `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
DEBIAN := /usr/lib/postgresql/15/bin
export UV_PYTHON_DOWNLOADS := never

# $(1): programs; $(2): Debian's packages that have them
installed = for each in $(1); do PATH="$$PATH:/usr/sbin" command -v "$$each" >/dev/null \
  || { echo "$$each is missing: apt-get install $(2)"; exit 1; }; done

.PHONY: help setup run test check stream faults fuzz drill previous recipes image patroni soak bench bench-full format proto console dictionary lock audit sbom wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

run: .venv/.ok ## set up everything, start PostgreSQL, migrate, serve gRPC on port 50052 and the console on 50053
	@exec $(BIN)/imctl dev

test: .venv/.ok ## set up everything and pass every test
	@$(BIN)/python -m pytest

setup: .venv/.ok ## only the set-up, into .venv
	@echo "ready: $(BIN)/imctl"

check: .venv/.ok ## format, lint, types, layers, contract and schema, all current
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/bandit -q -r -c pyproject.toml manager migrations deploy
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python console/build.py --check
	$(BIN)/buf lint
	$(BIN)/python proto/compatible.py
	$(BIN)/python migrations/lint.py
	$(BIN)/python migrations/check.py
	$(BIN)/python deploy/image.py --check
	$(BIN)/python deploy/advisories.py

stream: .venv/.ok ## break the stream for ten minutes, and 1,000 variants of a router's worst day
	IM_STREAM_SECONDS=$${IM_STREAM_SECONDS:-600} $(BIN)/python -m pytest -q -s tests/stream/test_chaos.py
	IM_ROUTER_VARIANTS=$${IM_ROUTER_VARIANTS:-1000} $(BIN)/python -m pytest -q --timeout 3600 tests/test_router.py

faults: .venv/.ok ## every kind of fault seven times, a million judged operations, 10,000 that return at once: two hours
	IM_FAULT_ROUNDS=$${IM_FAULT_ROUNDS:-7} IM_OPERATIONS=$${IM_OPERATIONS:-1000000} IM_HERD=$${IM_HERD:-10000} \
	  $(BIN)/python -m pytest -q -s tests/faults

fuzz: .venv/.ok ## a million inputs to all that reads what strangers send, 10,000 bad connections to each port of both transports, and of one with TLS
	IM_FUZZ_INPUTS=$${IM_FUZZ_INPUTS:-1000000} IM_FUZZ_REQUESTS=$${IM_FUZZ_REQUESTS:-100000} \
	  IM_FUZZ_CONNECTIONS=$${IM_FUZZ_CONNECTIONS:-10000} $(BIN)/python -m pytest -q -s tests/fuzz

drill: .venv/.ok ## lose the database of 100,000 instances, restore it to a change, and serve again: what is lost, and how long it takes
	IM_DRILL=$${IM_DRILL:-100000} $(BIN)/python -m pytest -q -s tests/test_drill.py

previous: .venv/.ok ## the last release on this schema: its tests, and its manager beside ours; IM_PREVIOUS names another commit
	$(BIN)/python -m tests.previous

recipes: .venv/.ok ## lose a database that pgBackRest or Barman keeps, restore it by the commands of docs/operations.md
	@$(call installed,pgbackrest barman $(DEBIAN)/postgres,pgbackrest barman postgresql-15)
	IM_RECIPES=1 $(BIN)/python -m pytest -q tests/recipes/test_pgbackrest.py tests/recipes/test_barman.py

image: .venv/.ok ## run what makes the container's image, as far as that goes without Docker: on this machine's Python
	IM_IMAGE=1 $(BIN)/python -m pytest -q tests/deploy/test_supply.py

patroni: .venv/.ok ## kill the primary of a Patroni cluster under load, switch it over, bring it back
	@$(call installed,patroni etcd haproxy $(DEBIAN)/postgres,patroni etcd-server haproxy postgresql-15)
	IM_PATRONI=1 $(BIN)/python -m pytest -q tests/recipes/test_patroni.py

soak: .venv/.ok ## an hour of steady work: what grows, and is the end as fast as the beginning?
	$(BIN)/python -m bench.soak

bench: .venv/.ok ## against etcd, Redis and ZooKeeper, side by side: the ratios, and whether each bar is reached
	$(BIN)/python -m bench.peers

bench-full: .venv/.ok ## the same on both transports, and growth, delivery, and many subscribers beside a stalled one
	$(BIN)/python -m bench.peers --rounds 9 --transport grpcio
	$(BIN)/python -m bench.peers --rounds 9 --transport native
	$(BIN)/python -m bench.transport
	$(BIN)/python -m bench.growth
	$(BIN)/python -m bench.stream
	$(BIN)/python -m bench.fanout

format: .venv/.ok ## format the code, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: .venv/.ok ## generate manager/pb and proto_version from proto/
	$(BIN)/python proto/generate.py

dictionary: .venv/.ok ## write docs/audit.md, the columns of the schema `audit`, from the catalogue
	$(BIN)/python migrations/dictionary.py

console: .venv/.ok ## bundle console/ into manager/console
	$(BIN)/python console/build.py

lock: $(UV) ## choose the newest versions that pyproject.toml admits, and cut out of them what the container's image has
	$(UV) pip compile -q --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url --all-extras \
	  --group dev --no-header --no-annotate pyproject.toml -o requirements.lock
	@$(MAKE) --no-print-directory setup
	$(BIN)/python deploy/image.py

audit: .venv/.ok ## before a release: known vulnerabilities of what is locked; fails where nobody can be asked, too
	$(BIN)/python deploy/advisories.py --strict

sbom: .venv/.ok ## write the bill of materials, dist/sbom.cdx.json
	$(BIN)/python deploy/sbom.py

wheel: .venv/.ok ## build the wheel into dist/
	rm -rf dist
	$(UV) build -q --wheel --no-build-isolation --python $(BIN)/python

clean: ## remove what the other targets made
	rm -rf .venv .tools dist build node_modules console/node_modules .mypy_cache .ruff_cache .pytest_cache

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or newer is needed as '$(PYTHON)': install it (apt-get install python3), or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	@rm -rf .tools && $(PYTHON) -m venv .tools && .tools/bin/pip install -q --disable-pip-version-check --require-hashes \
	  --only-binary :all: -r <(awk '/^[^ ]/ {uv = /^uv==/} uv' requirements.lock)

.venv/.ok: pyproject.toml requirements.lock | $(UV)
	@echo "setting up .venv: the first time it takes a minute or two" >&2
	@test -x $(BIN)/python || $(UV) venv -q --no-project --python $(PYTHON) .venv
	@$(UV) pip sync -q --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
