# make run                     set up on the first call, then serve on http://127.0.0.1:8000
# make test                    set up and run every test
# make check                   what CI runs: style, types, import contracts, migrations, tests on both databases
# make demo [FRAMES=folder]    doors opening and staying shut, without a camera
#
# Variables:
#   PORT=8000 HOST=127.0.0.1   where `make run` listens
#   VENV=.venv                 where the environment lies
#   TORCH_INDEX=               package index for torch. Empty: pip's own. On Linux x86_64 PyPI's torch brings 3 GB of
#                              CUDA; for the CPU build say TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   FAISS=cpu                  cpu or gpu (exclusive; gpu needs CUDA 12)

HOST ?= 127.0.0.1
PORT ?= 8000
VENV ?= .venv
FAISS ?= cpu
TORCH_INDEX ?=
FRAMES ?=

# The first interpreter that is new enough.
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
PY := $(VENV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# An environment is as new as pyproject.toml and the choices above: their hash names the stamp.
STAMP := $(shell { cat pyproject.toml; echo '$(TORCH_INDEX) $(FAISS)'; } | sha256sum | cut -c1-16)
INSTALLED := $(VENV)/.lintel-$(STAMP)
INSTALLED_DEMO := $(VENV)/.lintel-demo-$(STAMP)
INSTALLED_DEV := $(VENV)/.lintel-dev-$(STAMP)
MODELS := .lintel/models/.complete

.DEFAULT_GOAL := help
.PHONY: help run set-up test check browser style types imports migrations demo clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -11

run: set-up
	@exec $(PY) manage.py serve --host $(HOST) --port $(PORT)

set-up: $(INSTALLED) $(MODELS)
	@test -f $${LINTEL_SECRETS_FILE:-$${LINTEL_DATA_DIR:-.lintel}/secrets.env} || $(PY) manage.py generate_secrets
	@$(PY) manage.py set_up

test: $(INSTALLED_DEV) $(MODELS) browser
	$(PY) -m pytest

check: $(INSTALLED_DEV) $(MODELS) browser style types imports migrations
	LINTEL_TEST_DATABASE=postgres $(PY) -m pytest -m "database or flow"
	LINTEL_TEST_DATABASE=sqlite $(PY) -m pytest

browser: $(INSTALLED_DEV)
	@$(PY) -m tests.chromium

style: $(INSTALLED_DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(INSTALLED_DEV)
	$(PY) -m mypy

imports: $(INSTALLED_DEV)
	$(VENV)/bin/lint-imports

migrations: $(INSTALLED_DEV)
	@folder=$$(mktemp -d); trap "rm -rf $$folder" EXIT; LINTEL_DATA_DIR=$$folder $(PY) manage.py makemigrations --check --dry-run

demo: $(if $(FRAMES),$(INSTALLED),$(INSTALLED_DEMO)) $(MODELS)
	@$(PY) manage.py demo $(if $(FRAMES),--frames "$(FRAMES)")

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .import_linter_cache

# -- Environment --------------------------------------------------------------------------------------------------

$(PY):
	@test -n "$(PYTHON)" || { echo "Lintel needs Python 3.11 or newer; none was found on PATH." >&2; exit 1; }
	@echo "Creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m virtualenv -q $(VENV) 2>/dev/null; } || \
	  { rm -rf $(VENV); echo "Cannot create an environment: apt-get install python3-venv (or pip install virtualenv)." >&2; exit 1; }

$(INSTALLED): $(PY)
	@echo "Installing Lintel (some minutes the first time; torch is most of it)"
	@$(PY) -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$($(PY) -c 'import tomllib; print(next(r for r in tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["worker"] if r.startswith("torch")))')"
	@$(PY) -m pip install -q -e ".[server,worker,$(FAISS)]"
	@touch $@

$(INSTALLED_DEMO): $(INSTALLED)
	@$(PY) -m pip install -q -e ".[server,worker,$(FAISS),demo]"
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing what tests need"
	@$(PY) -m pip install -q -e ".[server,worker,$(FAISS),dev]"
	@touch $@

$(MODELS): $(INSTALLED) recognition/fetch_models.py
	@$(PY) -m recognition.fetch_models
	@mkdir -p $(dir $@) && touch $@
