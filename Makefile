# The two commands of a fresh machine are `make demo` and `make test`; both set up what they need.

CONFIG ?= examples/configs/metaworld_pick_place.yaml
BIN := .venv/bin
PYTHON ?= python3
OTHER_VENV = .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
export PYTHONUNBUFFERED = 1

# `mkdocs` is in an environment of its own: nothing else needs it.
DOCS_BIN := .venv-docs/bin

.PHONY: demo docs test test-python test-slow lint fuzz kill-matrix setup help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## make .venv and install everything
	@bash uv_setup.sh
	@bash env_setup.sh

demo: setup ## record demonstrations, train a policy, try it out, write the report
	$(BIN)/trainer record --train_config $(CONFIG)
	$(BIN)/python trainer/offline_trainer.py --train_config $(CONFIG)
	$(BIN)/trainer report $(CONFIG)

docs: ## build the site of docs/ into site/; a broken link fails
	test -x $(DOCS_BIN)/mkdocs || { $(PYTHON) -m venv .venv-docs && $(DOCS_BIN)/pip install --quiet 'mkdocs>=1.6,<2' 'mkdocs-material>=9.5'; }
	NO_MKDOCS_2_WARNING=1 $(DOCS_BIN)/mkdocs build --strict

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## lint, type check and every test that is quick
	OMP_NUM_THREADS=1 WANDB_MODE=disabled $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --durations=15

test-python: ## the quick tests under another Python, in an environment of its own: PYTHON=python3.12
	@VENV=$(OTHER_VENV) PYTHON=$(PYTHON) bash uv_setup.sh
	@VENV=$(OTHER_VENV) bash env_setup.sh
	OMP_NUM_THREADS=1 WANDB_MODE=disabled $(OTHER_VENV)/bin/python -m pytest -m "not slow" -n 2 --dist loadfile --durations=15

fuzz: setup ## 100,000 mutated model YAMLs raise nothing but ConfigError
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz_model_yaml.py --cases 100000 --seed 0

kill-matrix: setup ## kill 39 runs, take them up, compare with the run that was never stopped
	$(BIN)/python benchmarks/kill_matrix.py --seed 0 > kill_matrix.json

test-slow: setup ## the tests that take their time
	OMP_NUM_THREADS=1 WANDB_MODE=disabled $(BIN)/python -m pytest -m slow
