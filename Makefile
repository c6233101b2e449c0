# Every target sets itself up in .venv; nothing else is installed anywhere. `make` alone lists the targets.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3.13 python3,$(if $(shell command -v $(p) 2>/dev/null),$(p))))
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: help setup lint test clean
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  /'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"found Python {v[0]}.{v[1]} as $(PYTHON). Expected: 3.11, 3.12 or 3.13. To do: make PYTHON=/path/to/python3.12 ...")'
	@$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up .venv (TensorFlow is most of it: a minute or two, once)"
	@$(PIP) -e '.[sandbox]'
	@touch $@

.venv/.test: .venv/.run
	@echo "adding what the tests need to .venv"
	@$(PIP) -e '.[sandbox,test]'
	@touch $@ .venv/.run

setup: .venv/.test ## everything into .venv, nothing run

lint: .venv/.test ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## all tests, on a real Kafka
	$(BIN)/python -m pytest

clean: ## removes what make made
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
