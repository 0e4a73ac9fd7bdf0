# bnref: `make html` builds the site, `make test` proves the package. `make help` lists the rest.
# GPU=1 installs TensorFlow's CUDA libraries too; PYTHON=... chooses the interpreter.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help html html-fast serve test lint linkcheck clean distclean

VENV := .venv
PY := $(VENV)/bin/python
CONSTRAINTS := .ci/constraints.txt
EXTRAS := docs,test,lint$(if $(GPU),$(comma)gpu)
comma := ,
INSTALLED := $(VENV)/.installed$(if $(GPU),-gpu)

# The first interpreter that starts and is of a supported version: a name on the path may be a stub.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$p && break; done)

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/it" >&2; exit 1; }
	@echo "Installing into $(VENV), about 2.5 GB ..."
	@test -x $(PY) || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --disable-pip-version-check -q --progress-bar on -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@

html: $(INSTALLED) ## train, draw and render the site to docs/_build/html
	$(PY) docs/build.py html

html-fast: $(INSTALLED) ## render the texts without running a page, to docs/_build/html-fast
	$(PY) docs/build.py fast

serve: ## show the built site on http://127.0.0.1:8000
	@test -e docs/_build/html/index.html || { echo "nothing built yet: make html" >&2; exit 1; }
	$(PY) -m http.server --bind 127.0.0.1 --directory docs/_build/html 8000

test: html ## run every test, those of the built site too
	$(PY) -m pytest

lint: $(INSTALLED) ## check the style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

linkcheck: $(INSTALLED) ## follow every link to other sites (needs the network)
	$(PY) docs/build.py linkcheck

clean: ## remove what was rendered; keep what was executed
	rm -rf docs/_build

distclean: clean ## remove all that was made, the environment and the cache of executed pages too
	rm -rf $(VENV) .cache docs/gallery *.egg-info .pytest_cache .ruff_cache .hypothesis
