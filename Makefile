# Works without an active environment, in paths with spaces, with pip alone.
PYTHON ?= python3
BIN := .venv/bin
SYSTEM_PATH := $(PATH)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup dev repro test unit test-long coverage mutants check lock setup-matrix seeds
.PHONY: pr-report reproduce verify-metrics demo-exp baseline remake

# A stamp is made again if its lock is newer, or if the environment's Python does not run.
setup: .venv/ready      ## the environment: what the chain needs
dev: .venv/ready-dev    ## the environment, and what tests and linters need

# The system's Python, also where the environment's own is broken.
ENVIRONMENT = PATH="$(SYSTEM_PATH)" $(PYTHON) tools/setup_environment.py
RUNS = $(shell $(1)/bin/python -c '' >/dev/null 2>&1 || echo remake)
.venv/ready: requirements.txt $(call RUNS,.venv)
	$(ENVIRONMENT) .venv requirements.txt
	touch $@

.venv/ready-dev: requirements-dev.txt .venv/ready
	$(ENVIRONMENT) .venv requirements-dev.txt
	touch $@

repro: setup            ## rebuild everything that changed, end to end
	$(BIN)/python tools/repair_lock.py
	$(BIN)/python -m dvc repro

test: dev               ## the whole test suite
	$(BIN)/python -m pytest

unit: dev               ## unit, property and golden tests; ROOM=codecs: the unit tests of one room
	$(BIN)/python -m pytest $(if $(ROOM),tests/unit/$(ROOM),tests/unit tests/property tests/golden)

test-long: dev          ## what takes minutes to hours a test: a storm of kills, long fuzzing
	$(BIN)/python -m pytest -m long -n 2

coverage: dev           ## lines and branches of stages/pose that tests without processes reach
	$(BIN)/python -m pytest tests/unit tests/property tests/golden tests/fuzz --cov=stages/pose \
		--cov-branch --cov-report=term --cov-fail-under=90

mutants: dev            ## mutation testing: a sample of small changes that the tests have to catch
	$(BIN)/python tests/mutate.py 150

check: dev              ## linters, types, workflows
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	PYTHONPATH=stages $(BIN)/lint-imports --no-logo
	$(BIN)/zizmor --offline --quiet .github/workflows

seeds: setup            ## the default chain over three seeds, into benchmarks/seeds.md
	$(BIN)/python benchmarks/seeds.py

# A review needs dvc, not torch: where there is no .venv a small environment is enough.
REVIEW := $(if $(wildcard .venv/ready),.venv,.venv-review)
BASE ?= main
export BASE
pr-report: $(REVIEW)/ready  ## what this branch changes against BASE, into pr_report/; as CI does
	$(REVIEW)/bin/python tools/pr_report.py --base "$$BASE"

.venv-review/ready: tools/requirements.txt $(call RUNS,.venv-review)
	$(ENVIRONMENT) .venv-review tools/requirements.txt
	touch $@

verify-metrics: setup   ## are metrics/ still those of the last commit, to another CPU's rounding?
	$(BIN)/python tools/verify_metrics.py

reproduce: setup        ## the chain twice, at two places, byte by byte; twice the time of repro
	$(BIN)/python tools/reproduce.py

# Each point in a folder of its own (--temp): the working tree stays as it is.
demo-exp: setup         ## two learning rates, shortened, and their table (docs/experiments.md)
	$(BIN)/python -m dvc repro build_cache
	for lr in 2.0e-3 4.0e-3; do \
		$(BIN)/python -m dvc exp run --temp -S train.lr=$$lr -S phase2.epochs=1 -S ssl.epochs=0 || exit 1; \
	done
	$(BIN)/python -m dvc exp show --no-pager --only-changed --drop '.*' \
		--keep 'Experiment|AP$$|train[.]lr$$|phase2[.]epochs$$' --sort-by AP --sort-order desc

lock: dev               ## requirements.in -> requirements.txt, the same for -dev and of tools/
	$(BIN)/python tools/lock.py

setup-matrix: dev       ## old and new pips install exactly what the locks pin; one row for each
	$(BIN)/python tools/setup_matrix.py

baseline:               ## accept this run: the report's deltas are to it from now on
	mkdir -p metrics/baseline
	$(BIN)/python -c "import hashlib, pathlib; print(hashlib.sha256(pathlib.Path(\
	'data/cache/ground_truth.json').read_bytes()).hexdigest())" > metrics/baseline/ground_truth.sha256
	cp metrics/evaluate/metrics.json params.yaml metrics/baseline/
