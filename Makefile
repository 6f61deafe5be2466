# The project's commands. All of them use the environment in $(VENV) and make it if there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# LOCK=requirements.lock installs exactly the versions that were tested (Python 3.11 or newer).
LOCK ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q

.PHONY: help setup demo test gpu lint schema lock clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.installed  ## make the environment (5.5 GB, mostly torch)

demo: $(VENV)/.installed  ## make data, train four models, test them, print a table
	$(BIN)/python demo.py

test: $(VENV)/.installed-dev  ## run the default tests
	$(BIN)/python -m pytest -q -n 2 --dist loadscope

gpu: $(VENV)/.installed-dev  ## on a CUDA GPU: run the tests that need one, then measure
	$(BIN)/python -m pytest -q -n 4 --dist load -m gpu
	$(BIN)/python -m benchmarks.cuda --out work_dirs/cuda

lint: $(VENV)/.installed-dev  ## check the code's style
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

schema: $(VENV)/.installed  ## write configs/schema.json anew
	$(BIN)/python parse_config.py --schema > configs/schema.json

lock: $(VENV)/bin/python  ## write requirements.lock anew (UPGRADE=--upgrade: with the newest versions)
	$(PIP) 'uv<1'
	$(BIN)/python -m uv pip compile -q --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' $(UPGRADE) requirements-dev.txt -o requirements.lock

clean:  ## remove caches; data, runs and the environment stay
	rm -rf .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt requirements-nodeps.txt $(LOCK) $(VENV)/bin/python
	$(PIP) -r $(or $(LOCK),requirements.txt)
	$(PIP) --no-deps -r requirements-nodeps.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) -r $(or $(LOCK),requirements-dev.txt)
	touch $@
