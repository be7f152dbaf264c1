# fedrad: `make run` and `make test` are all that a fresh machine needs (Python 3.11 or newer).
.DEFAULT_GOAL := help
.PHONY: help setup run protocol test lint mutations docs bench clean

PYTHON ?= python3
JOBS ?= 3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fedrad-is-set-up

help:
	@echo "make run    set up if needed, then simulate four hospitals (ARGS='--set privacy.epsilon=1' changes a setting)"
	@echo "make protocol  likewise with order notes and their imaging protocols"
	@echo "make test   set up if needed, then lint, type-check and test"
	@echo "make setup  only make $(VENV) with the pinned packages"
	@echo "make lint   ruff and mypy"
	@echo "make mutations  break each guarantee on purpose and see that its test notices (ARGS='NAME ...' for some)"
	@echo "make docs   regenerate docs/configuration.md"
	@echo "make bench  what docs/performance.md promises, measured here (ARGS='--openi DIR' for real report lengths)"
	@echo "make clean  remove $(VENV) and caches; runs/ stays"

setup: $(STAMP)
	@echo "fedrad: $(VENV) is set up."

# Made again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "fedrad needs Python 3.11 or newer; try: make setup PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "fedrad: making the virtual environment $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "fedrad: installing the pinned packages (some minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(STAMP)
	@echo "fedrad: simulating four hospitals on generated reports, through the real flwr run ..."
	@$(BIN)/fedrad simulate mimic --grid flower $(ARGS)

protocol: $(STAMP)
	@echo "fedrad: simulating four hospitals that learn to choose imaging protocols ..."
	@$(BIN)/fedrad simulate protocol $(ARGS)

test: lint
	@echo "fedrad: running the tests ..."
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	@echo "fedrad: checking style (ruff) ..."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "fedrad: checking types (mypy) ..."
	@$(BIN)/mypy

mutations: $(STAMP)
	@$(BIN)/python -m tests.mutations --jobs $(JOBS) $(ARGS)

docs: $(STAMP)
	@$(BIN)/python -m fedrad.reference > docs/configuration.md
	@echo "fedrad: wrote docs/configuration.md"

bench: $(STAMP)
	@echo "fedrad: measuring (half an hour on two cores) ..."
	@$(BIN)/python -m benchmarks.goals $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
