# One environment (.venv) serves all targets. PYTHON and INDEX can be set: make demo PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or later is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

install: .venv/installed ## make .venv and install everything into it

demo: .venv/installed ## train --cut 13, invert and linear probe on embedded images; prints where to look
	$(BIN)/python -m ssl_split.train --cut 13 --resume
	$(BIN)/python -m probes.linear
	$(BIN)/python -m attacks.invert --method decoder --budget quick
	@echo
	@echo "Digits only show that everything works: conclusions about privacy need real photographs (see README.md)."
	@echo "Look at: runs/*/attacks/*/images.png   runs/*/probes/*/result.json   runs/*/metrics.jsonl"

test: .venv/installed ## ruff, mypy and the default tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal --durations 12

slow: .venv/installed ## the longer tests too
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'slow or not slow'

bench: .venv/installed ## speed of a training step against the plain way, plain convolutions and centralised MoCo
	$(BIN)/python benchmarks/step.py

wheel: .venv/installed ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove the environment and built files; runs/ and sweeps/ stay
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install demo test slow bench wheel clean
