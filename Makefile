# bnref: `make html` builds the site, `make test` proves the package. `make help` lists the rest.
# GPU=1 installs TensorFlow's CUDA libraries too; PYTHON=... chooses the interpreter.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help html html-fast page serve test test-fast test-oldest lint format linkcheck dist clean distclean

VENV := .venv
PY := $(VENV)/bin/python
CONSTRAINTS := .ci/constraints.txt
EXTRAS := gallery,docs,test,lint,dist$(if $(GPU),$(comma)gpu)
comma := ,
INSTALLED := $(VENV)/.installed$(if $(GPU),-gpu)

# Files of tests, two at a time: many of them wait for processes that they started.
IN_PARALLEL := -n 2 --dist loadfile

# The first interpreter that starts and is of a supported version, 3.11 to the one in the call: a name
# on the path may be a stub. The oldest TensorFlow has nothing for 3.13.
interpreter = $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(1)))' \
	2>/dev/null && echo $$p && break; done)
PYTHON ?= $(call interpreter,13)
OLDEST_PYTHON ?= $(call interpreter,12)

# The oldest versions that the package is for, and the tests that say nothing of them: those of the
# site, of its build and of what is on record, which describe the pinned versions.
OLDEST := .venv-oldest
OLDEST_VERSIONS := .ci/oldest.txt
SITE_TESTS := as_markdown browser build conformance conformance_page defects elsewhere evidence \
	extensions finder_and_explorer freshness installed lighten made_once notebooks page_parts \
	pytorch_tabs search site symptoms \
	upstream_reports upstream_versions xla_programs
WITHOUT_SITE := $(SITE_TESTS:%=--ignore=tests/test_%.py)

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

# The JavaScript that the search is bundled from; Node.js and npm come with the environment.
PACKAGES := docs/_node/package-lock.json

$(INSTALLED): pyproject.toml $(CONSTRAINTS) $(PACKAGES)
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/it" >&2; exit 1; }
	@echo "Installing into $(VENV), about 2.5 GB ..."
	@test -x $(PY) || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --disable-pip-version-check -q --progress-bar on -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	$(VENV)/bin/npm ci --prefix $(dir $(PACKAGES)) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

html: $(INSTALLED) ## train, draw and render the site to docs/_build/html
	$(PY) docs/build.py html

html-fast: $(INSTALLED) ## render the texts without running a page, to docs/_build/html-fast
	$(PY) docs/build.py fast

page: $(INSTALLED) ## write the skeleton of a gallery page: make page NAME=pitfalls/the_mean_is_late
	$(PY) docs/new_page.py "$(NAME)"

serve: ## show the built site on http://127.0.0.1:8000
	@test -e docs/_build/html/index.html || { echo "nothing built yet: make html" >&2; exit 1; }
	$(PY) -m http.server --bind 127.0.0.1 --directory docs/_build/html 8000

test: html ## run every test, those of the built site too
	$(PY) -m pytest $(IN_PARALLEL)

# A file is among these unless it is one of the site's or says that it is slow: pytest.mark.slow.
test-fast: $(INSTALLED) ## run what needs neither a built site nor other processes, a minute or so
	$(PY) -m pytest $(IN_PARALLEL) -m "not slow" $(WITHOUT_SITE)

$(OLDEST)/.installed: pyproject.toml $(OLDEST_VERSIONS)
	@test -n "$(OLDEST_PYTHON)" || { echo "Python 3.11 or 3.12 is needed; set OLDEST_PYTHON=/path/to/it" >&2; exit 1; }
	@echo "Installing the oldest versions into $(OLDEST), about 2 GB ..."
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/pip install --disable-pip-version-check -q --progress-bar on \
		-c $(OLDEST_VERSIONS) -e '.[gallery]' hypothesis pytest pytest-xdist
	@touch $@

test-oldest: $(OLDEST)/.installed ## run the package's tests on the oldest versions that it is for
	$(OLDEST)/bin/python -m pytest $(IN_PARALLEL) $(WITHOUT_SITE)

lint: $(INSTALLED) ## check the style and the hints
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(INSTALLED) ## mend the style where that can be done
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

linkcheck: $(INSTALLED) ## follow every link to other sites (needs the network)
	$(PY) docs/build.py linkcheck

dist: $(INSTALLED) ## build the wheel and the source archive into dist/
	rm -rf dist
	$(PY) -m build --no-isolation

clean: ## remove what was rendered; keep what was executed
	rm -rf docs/_build

distclean: clean ## remove all that was made, the environment and the cache of executed pages too
	rm -rf $(VENV) $(OLDEST) docs/_node/node_modules dist build .cache docs/gallery *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
