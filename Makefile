# The project's commands. All of them use the environment in $(VENV) and make it if there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test gpu lint schema clean
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

clean:  ## remove caches; data, runs and the environment stay
	rm -rf .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt requirements-nodeps.txt $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -r requirements-nodeps.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	touch $@
