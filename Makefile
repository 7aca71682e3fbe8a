# The commands of CONTRIBUTING.md. Each needs the virtual environment of `make setup` to be active.
# WORKERS: how many processes run the tests. OMP_NUM_THREADS=1: the workers must not fight for the cores.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help setup format lint types test-fast test benchmarks tables
.DEFAULT_GOAL := help

help: ## list these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install the package for development into the active virtual environment
	python -m pip install -c constraints.txt -e '.[dev]'

format: ## rewrite the code in the common format
	ruff format

lint: ## check the format and the common rules
	ruff format --check
	ruff check

types: ## check the types
	pyrefly check

test-fast: ## run the tests that take a moment each
	$(PYTEST) -m 'not slow' tests

test: ## run all tests and the examples in the docstrings
	$(PYTEST)

benchmarks: ## list the benchmarks; `make benchmarks NAME=optimizer_step` runs one
ifdef NAME
	python benchmarks/$(NAME).py $(ARGS)
else
	@for file in benchmarks/*.py; do printf '%s: ' "$$(basename $$file .py)"; sed -n '1s/^"""//p' $$file; done
endif

tables: ## write the tables of README.md and docs/ again from benchmarks/results/
	python benchmarks/tables.py
