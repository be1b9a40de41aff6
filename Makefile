# All targets create their own environment from the package index alone: .venv, or, for PYTHON=python3.13,
# .venv-python3.13.
PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
CONSTRAINTS := --constraint constraints.txt
PYTEST = $(BIN)/python -m pytest --numprocesses=$(shell nproc 2>/dev/null || echo 2) --maxprocesses=8 --dist=worksteal

# keeps progress bars, which rewrite a line again and again, out of the outputs
NOTEBOOK := --ExecutePreprocessor.record_timing=False \
	--Exporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor

# the supported Pythons that this machine has; pyenv runs python3.13 only if PYENV_VERSION names that version
PYENV := PYENV_VERSION="$${PYENV_VERSION:+$$PYENV_VERSION:}$$(pyenv versions --bare 2>/dev/null | paste -sd: -)"
PYTHONS = $(shell for python in python3.11 python3.12 python3.13 python3.14; do \
	if $(PYENV) $$python -c '' 2>/dev/null; then echo $$python; fi; done)

NEWEST = $(lastword $(PYTHONS))
DEFAULT = $(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo notebook test quick slow matrix newest results torture lint

demo: $(VENV)/installed
	$(BIN)/python -m cifar_flax.main --config experiments/cnn_augmented.py:demo

# the runs it trains are in docs/runs; an unfinished one is resumed, and a finished one is not trained again
notebook: $(VENV)/installed
	$(BIN)/python -m nbconvert --execute --to notebook $(NOTEBOOK) --output-dir runs docs/walkthrough.ipynb
	$(BIN)/python -m nbconvert --to html runs/walkthrough.ipynb

test: $(VENV)/installed
	$(PYTEST)

quick: $(VENV)/installed
	$(PYTEST) -m 'not medium and not slow'

slow: $(VENV)/installed
	$(PYTEST) -m slow

matrix:
	$(if $(PYTHONS),,$(error none of python3.11 to python3.14 is installed under this name))
	@set -e; for python in $(PYTHONS); do echo "== $$python"; $(MAKE) test PYTHON=$$python; done

newest:
	$(if $(filter-out $(DEFAULT),$(NEWEST)),$(MAKE) quick PYTHON=$(NEWEST),@echo "$(DEFAULT) is the newest Python here")

results: $(VENV)/installed
	$(BIN)/python -m benchmarks.publish

torture: $(VENV)/installed
	$(BIN)/python -m benchmarks.torture
	$(BIN)/python -m benchmarks.torture_distributed

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV); this takes a minute or two"
	$(if $(filter python3.%,$(PYTHON)),$(PYENV)) $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '.[dev]'
	touch $@
