# Works without an active environment, in paths with spaces, with pip alone.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test test-long coverage mutants check lock seeds pr-report reproduce
.PHONY: verify-metrics demo-exp baseline unit
setup: .venv/ready

.venv/ready: requirements.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else f"Python 3.10 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.txt
	touch $@

repro: setup            ## rebuild everything that changed, end to end
	$(BIN)/python tools/repair_lock.py
	$(BIN)/python -m dvc repro

test: setup             ## the whole test suite
	$(BIN)/python -m pytest

unit: setup             ## unit, property and golden tests; ROOM=codecs: the unit tests of one room
	$(BIN)/python -m pytest $(if $(ROOM),tests/unit/$(ROOM),tests/unit tests/property tests/golden)

test-long: setup        ## what takes minutes to hours a test: a storm of kills, long fuzzing
	$(BIN)/python -m pytest -m long -n 2

coverage: setup         ## lines and branches of stages/pose that tests without processes reach
	$(BIN)/python -m pytest tests/unit tests/property tests/golden tests/fuzz --cov=stages/pose \
		--cov-branch --cov-report=term --cov-fail-under=90

mutants: setup          ## a sample of small changes to the code, each of which a test has to notice
	$(BIN)/python tests/mutate.py 150

check: setup            ## linters and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	PYTHONPATH=stages $(BIN)/lint-imports --no-logo

seeds: setup            ## the default chain over three seeds, into benchmarks/seeds.md
	$(BIN)/python benchmarks/seeds.py

# A review needs dvc, not torch: where there is no .venv a small environment is enough.
REVIEW := $(if $(wildcard .venv/ready),.venv,.venv-review)
BASE ?= main
export BASE
pr-report: $(REVIEW)/ready  ## what this branch changes against BASE, into pr_report/; as CI does
	$(REVIEW)/bin/python tools/pr_report.py --base "$$BASE"

.venv-review/ready: tools/requirements.txt
	$(PYTHON) -m venv .venv-review
	.venv-review/bin/python -m pip install --disable-pip-version-check --require-hashes -r tools/requirements.txt
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

COMPILE := uv pip compile --universal --python-version 3.10 --generate-hashes --no-header --quiet
lock: setup             ## requirements.in -> requirements.txt, and the same of tools/
	$(BIN)/python -m $(COMPILE) --output-file requirements.txt requirements.in
	$(BIN)/python -m $(COMPILE) --no-annotate --constraint requirements.txt \
		--output-file tools/requirements.txt tools/requirements.in

baseline:               ## accept this run: the report's deltas are to it from now on
	mkdir -p metrics/baseline
	cp metrics/evaluate/metrics.json params.yaml metrics/baseline/
