# Works without an active environment, in paths with spaces, with pip alone.
PYTHON ?= python3
BIN := .venv/bin
SYSTEM_PATH := $(PATH)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup dev repro preflight test unit test-long coverage mutants check lock setup-matrix seeds
.PHONY: pr-report reproduce verify-metrics demo demo-exp experiments baseline remake

help:                   ## this list
	@awk -F ':[^#]*## ' '/^[a-z][a-z-]*:.*##/ { printf "make %-16s %s\n", $$1, $$2 }' Makefile

# A stamp is made again if its lock is newer, or if the environment's Python does not run.
setup: .venv/ready      ## the environment of the pipeline, in .venv
dev: .venv/ready-dev    ## setup, and the packages of tests and linters

# The system's Python, also where the environment's own is broken.
ENVIRONMENT = PATH="$(SYSTEM_PATH)" $(PYTHON) tools/setup_environment.py
RUNS = $(shell $(1)/bin/python -c '' >/dev/null 2>&1 || echo remake)
.venv/ready: requirements.txt $(call RUNS,.venv)
	@[ -e $@ ] || echo "setup: installs 6.6 GB into .venv; takes about 5 minutes"
	$(ENVIRONMENT) .venv requirements.txt
	touch $@

.venv/ready-dev: requirements-dev.txt .venv/ready
	@[ -e $@ ] || echo "setup: installs 0.3 GB for tests and linters into .venv"
	$(ENVIRONMENT) .venv requirements-dev.txt
	touch $@

repro: setup            ## run the pipeline: every stage that changed (dvc repro)
	$(BIN)/python tools/repair_lock.py
	$(BIN)/python -m dvc repro
	@$(BIN)/python tools/explain_changes.py

preflight: setup        ## check what the run of params.yaml will need, before it starts
	@$(BIN)/python stages/preflight.py

test: dev               ## the whole test suite
	$(BIN)/python -m pytest

unit: dev               ## unit, property and golden tests; ROOM=codecs: the unit tests of one room
	$(BIN)/python -m pytest $(if $(ROOM),tests/unit/$(ROOM),tests/unit tests/property tests/golden)

test-long: dev          ## tests that take minutes to hours each: repeated kills, long fuzzing
	$(BIN)/python -m pytest -m long -n 2

coverage: dev           ## line and branch coverage of stages/pose by the tests of make unit
	$(BIN)/python -m pytest tests/unit tests/property tests/golden tests/fuzz --cov=stages/pose \
		--cov-branch --cov-report=term --cov-fail-under=90

mutants: dev            ## mutation testing: do the tests catch small changes of the code?
	$(BIN)/python tests/mutate.py 150

check: dev              ## linters, types, imports, workflows
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy --python-version 3.10 --no-warn-return-any
	PYTHONPATH=stages $(BIN)/lint-imports --no-logo
	$(BIN)/zizmor --offline --quiet .github/workflows

seeds: setup            ## the default with three seeds; writes benchmarks/seeds.md
	$(BIN)/python benchmarks/seeds.py

# A review needs dvc, not torch: where there is no .venv a small environment is enough.
REVIEW := $(if $(wildcard .venv/ready),.venv,.venv-review)
BASE ?= main
export BASE
pr-report: $(REVIEW)/ready  ## what this branch changes, compared with BASE; writes pr_report/
	$(REVIEW)/bin/python tools/pr_report.py --base "$$BASE"

.venv-review/ready: tools/requirements.txt $(call RUNS,.venv-review)
	$(ENVIRONMENT) .venv-review tools/requirements.txt
	touch $@

verify-metrics: setup   ## compare metrics/ with the last commit, within rounding
	$(BIN)/python tools/verify_metrics.py

reproduce: setup        ## run the pipeline in two places and compare all bytes
	$(BIN)/python tools/reproduce.py

# Columns: the main numbers, and the params in which the experiments differ.
experiments: setup      ## one row per experiment: AP, and the params in which experiments differ
	$(BIN)/python -m dvc exp show --md --only-changed --sort-by AP --sort-order desc --drop \
		'^(data|models|stages|metrics|report|recipes)(/|$$)|^(AP75|AP[ml]|AR..?|ap_gain_.*|PCK|(keypoint_)?ECE(_calibrated)?|Created)$$'

# Each point in a folder of its own (--temp): the working tree stays as it is.
demo-exp: setup         ## two short experiments and their table (docs/experiments.md)
	$(BIN)/python -m dvc repro build_cache
	for lr in 2.0e-3 4.0e-3; do \
		$(BIN)/python -m dvc exp run --temp -S train.lr=$$lr -S phase2.epochs=1 -S ssl.epochs=0 || exit 1; \
	done
	$(BIN)/python -m dvc exp show --no-pager --only-changed --drop '.*' \
		--keep 'Experiment|AP$$|train[.]lr$$|phase2[.]epochs$$' --sort-by AP --sort-order desc

demo: setup             ## poses in a photograph and in a rendered clip, by the trained model
	@$(BIN)/python tools/demo.py

lock: dev               ## write requirements*.txt from requirements*.in
	$(BIN)/python tools/lock.py

setup-matrix: dev       ## install with several versions of Python and pip; one row each
	$(BIN)/python tools/setup_matrix.py

baseline:               ## make the current result the baseline of the report
	mkdir -p metrics/baseline
	$(BIN)/python -c "import hashlib, pathlib; print(hashlib.sha256(pathlib.Path(\
	'data/cache/ground_truth.json').read_bytes()).hexdigest())" > metrics/baseline/ground_truth.sha256
	cp metrics/evaluate/metrics.json params.yaml metrics/baseline/
