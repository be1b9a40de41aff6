# All targets create their own environment in .venv, from the package index alone.
PYTHON ?= python3
BIN := .venv/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test quick slow results torture lint

demo: .venv/installed
	$(BIN)/python -m cifar_flax.main --config experiments/cnn_augmented.py:demo

test: .venv/installed
	$(BIN)/python -m pytest

quick: .venv/installed
	$(BIN)/python -m pytest -m 'not medium and not slow'

slow: .venv/installed
	$(BIN)/python -m pytest -m slow

results: .venv/installed
	$(BIN)/python -m benchmarks.publish

torture: .venv/installed
	$(BIN)/python -m benchmarks.torture

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	@echo "installing into .venv; this takes a minute or two"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
