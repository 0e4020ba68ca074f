# Works without an active environment, in paths with spaces, with pip alone.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test check lock seeds baseline
setup: .venv/ready

.venv/ready: requirements.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else f"Python 3.10 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.txt
	touch $@

repro: setup            ## rebuild everything that changed, end to end
	$(BIN)/python -m dvc repro

test: setup             ## the whole test suite
	$(BIN)/python -m pytest

check: setup            ## linters and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

seeds: setup            ## the default chain over three seeds, into benchmarks/seeds.md
	$(BIN)/python benchmarks/seeds.py

baseline:               ## accept this run: the report's deltas are to it from now on
	mkdir -p metrics/baseline
	cp metrics/evaluate/metrics.json params.yaml metrics/baseline/

lock: setup             ## requirements.in -> requirements.txt
	$(BIN)/python -m uv pip compile --universal --python-version 3.10 --generate-hashes \
		--no-header --quiet --output-file requirements.txt requirements.in
