# Every target sets itself up in .venv; nothing else is installed anywhere. `make` alone lists the targets.
# The first that runs and that TensorFlow has wheels for: a name on the path may be a shim that leads nowhere.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do if $$p -c '$(FITS)' >/dev/null 2>&1; then echo $$p; break; fi; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: help demo quick test test-page test-rules test-stack image long soak verify verify-seeds lint fuzz bench bench-recovery recipes kafka demo-model setup clean
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  /'

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "found no Python 3.11, 3.12 or 3.13 on the path. To do: install one, or name it: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@$(PYTHON) -c '$(FITS)' || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13. To do: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up .venv (TensorFlow is most of it: a minute or two, once)"
	@$(PIP) -e '.[sandbox,plot,registry,protobuf]'
	@touch $@

# Keras 2, which old model files are compared with. Its wheel asks for `tensorflow`, which would overwrite the files of tensorflow-cpu.
.venv/.test: .venv/.run
	@echo "adding what the tests need to .venv"
	@$(PIP) -e '.[sandbox,plot,registry,protobuf,test]'
	@$(PIP) --no-deps tf_keras
	@touch $@ .venv/.run

# A browser's driver in Python; Chromium itself and its chromedriver come from the system.
.venv/.page: .venv/.test
	@echo "adding what drives a browser to .venv"
	@$(PIP) -e '.[page]'
	@touch $@

demo: .venv/.run ## a simulated plant with Kafka and the service on this machine; SECONDS=20 stops by itself, CRASH=5 kills the service every 5 s
	@$(BIN)/python -m processor.cli demo $(if $(SECONDS),--seconds $(SECONDS)) $(if $(CRASH),--crash $(CRASH))

# Each process takes whole files, the longest first: see tests/conftest.py.
PYTEST := $(BIN)/python -m pytest --no-loadscope-reorder --max-worker-restart=0

quick: lint ## lint, types and unit tests: no TensorFlow, no broker, under a minute
	$(PYTEST) tests/unit -n 2 -m "not full and not long and not soak" --durations=10

# Three at a time, each with a Kafka of its own: most of a fault test's time is waiting, and the rest is starts of services.
test: lint ## what a change must pass before it is pushed, on a real Kafka: about twelve minutes on two cores
	$(PYTEST) -n 3 -m "not long and not soak" --durations=20

long: .venv/.test ## the rest of what CI runs: every fault on the real broker, every kind of model; half an hour
	$(PYTEST) -n 3 -m "long and not soak" --durations=20

test-page: .venv/.page ## the status page of a real service in a real Chromium; PICTURES=docs/images saves screenshots
	$(BIN)/python -m pytest tests/page $(if $(PICTURES),--pictures $(PICTURES))

soak: .venv/.test ## the tests that take hours: more models, more seeds, longer runs
	$(BIN)/python -m pytest -m soak

# One broker for an even seed, three for an odd one, unless BROKERS says it.
verify: .venv/.run ## injects faults for MINUTES=10 and compares every output; SEED=7, KILLS=50, BROKERS=3
	@seed=$(or $(SEED),$$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')); \
	$(BIN)/slotstream verify --seed $$seed --brokers $(or $(BROKERS),$$((seed % 2 * 2 + 1))) --minutes $(or $(MINUTES),10) \
	  $(if $(KILLS),--kills $(KILLS))

verify-seeds: .venv/.run ## verify with N=10 seeds in a row, and a table of the results; FROM=7, MINUTES=2 each, LOAD=1 keeps all cores busy
	@$(BIN)/python -m scripts.verify_seeds --count $(or $(N),10) --minutes $(or $(MINUTES),2) $(if $(FROM),--from $(FROM)) $(if $(LOAD),--load)

lint: .venv/.test ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: .venv/.test ## feeds invalid input to all parsers; COUNT=10000000 inputs, SEED=1
	$(BIN)/python tests/support/fuzz.py $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

test-rules: $(BIN)/python ## the alert rules, tested by Prometheus's promtool (from the path, or Debian's package)
	$(BIN)/python scripts/test_rules.py

test-stack: .venv/.test ## the image and docker-compose.yml on a real Docker engine: a running daemon, or a private one as root on Debian
	$(BIN)/python tests/stack/run.py

# Behind a proxy: PIP_CONF=pip.conf names the package index, CA=ca.pem what it is trusted by; neither is left in the image.
BUILD = DOCKER_BUILDKIT=1 docker build -f deploy/Dockerfile $(if $(PIP_CONF),--secret id=pip.conf,src=$(PIP_CONF)) $(if $(CA),--secret id=ca.pem,src=$(CA))
image: ## the container image slotstream:local (IMAGE=name), and its bill of materials in dist/
	$(BUILD) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) --build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) \
	  -t $(or $(IMAGE),slotstream:local) .
	$(BUILD) --target sbom --output dist .

bench: .venv/.run ## the service beside an echo and a raw pipe; CASES="2,000 sensors" chooses one, JSON=file keeps the runs, PLOT=docs/images draws
	$(BIN)/python -m bench $(if $(CASES),--case "$(CASES)") $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(LEAST),--least $(LEAST)) $(if $(JSON),--json $(JSON)) $(if $(PLOT),--plot $(PLOT))

bench-recovery: .venv/.run ## the cost of a crash, a restart, a rebalance and a checkpoint
	$(BIN)/python -m bench.recovery

recipes: .venv/.run ## runs the recipes of docs/recipes.md and prints their numbers
	$(BIN)/python -m recipes

kafka: .venv/.run ## an embedded Kafka in the foreground, for experiments; BROKERS=3 for a cluster, REGISTRY=1 for a schema registry
	$(BIN)/python -m processor.testbed.embedded_kafka $(if $(BROKERS),--brokers $(BROKERS)) $(if $(REGISTRY),--registry)

demo-model: .venv/.run ## retrains the demo's model
	$(BIN)/python scripts/train_demo_model.py

setup: .venv/.test ## installs everything into .venv

clean: ## removes everything that make created
	rm -rf .venv .cache .coverage build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# Each takes one extra alone: pages, archives and workflows need neither TensorFlow nor a broker in .venv.
.venv/.docs .venv/.dist .venv/.workflows: .venv/.%: pyproject.toml constraints.txt scripts/extra.py | $(BIN)/python
	@echo "adding what make $* needs to .venv"
	@$(PIP) $$($(BIN)/python scripts/extra.py $*)
	@touch $@

.venv/.coverage: .venv/.test
	@$(PIP) $$($(BIN)/python scripts/extra.py coverage)
	@touch $@

.PHONY: docs dist coverage workflows
docs: .venv/.docs ## the documentation as a site in build/site; a broken link or a page without a place in the navigation fails
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --fresh-env -q -d build/doctrees docs build/site
	@echo "build/site/index.html"

dist: .venv/.dist ## wheel and source archive in dist/, installed into an empty environment, where the demo runs for SECONDS=10
	$(BIN)/python scripts/dist.py $(if $(SECONDS),--seconds $(SECONDS))

coverage: .venv/.coverage ## the lines of processor/ that the unit tests reach; HTML report: build/coverage/index.html
	$(PYTEST) tests/unit -n 2 -q -m "not full and not long and not soak" --cov --cov-report=term --cov-report=html:build/coverage

# actionlint is no Python package, so it is taken from the path or built by Go; where there is neither, the other two judge alone.
workflows: .venv/.workflows ## checks the GitHub workflows with their schema, zizmor and actionlint (from the path, or built with Go)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github
	@if command -v actionlint > /dev/null; then actionlint; \
	elif command -v go > /dev/null; then go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12; \
	else echo "actionlint was NOT run: found neither it nor Go on the path"; fi
