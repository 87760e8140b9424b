# make demo: train, validate and detect on a data set drawn here.  make test: the tests.  make lint: style and types.
# PYTHON= picks the interpreter that makes the environment, VENV= the folder it lies in.
# TESTS= names some tests, WORKERS= how many processes run them.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --maxprocesses 8 --dist worksteal

# $(call install,NAME) installs NAME.txt. The stamp is a copy of it: what changed is installed, what did not is not.
install = @cmp -s $(1).txt $(VENV)/installed-$(1).txt || { echo "installing $(1).txt into $(VENV) ..." \
  && $(PIP) $(1).txt && cp $(1).txt $(VENV)/installed-$(1).txt; }

# The same, without what the packages themselves ask for.
install-alone = @cmp -s $(1).txt $(VENV)/installed-$(1).txt || { echo "installing $(1).txt into $(VENV) ..." \
  && $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --requirement $(1).txt \
  && cp $(1).txt $(VENV)/installed-$(1).txt; }

.PHONY: help environment test-environment browser-environment export-environment oracle-environment lint-environment docs-environment demo test test-slow test-all lint format docs gallery

help:
	@echo "make demo       make an environment, train an attention variant on drawn scenes, validate it, detect with it"
	@echo "make test       the tests that need neither a browser nor minutes (TESTS=tests/utils/test_nms.py for some)"
	@echo "make test-slow  the others: end-to-end runs, reports opened in a browser, exported files run by their runtimes"
	@echo "make test-all   both"
	@echo "make lint       style, spelling and types"
	@echo "make format     put the source in the form that make lint asks for"
	@echo "make docs       the pages as a site, in site/"
	@echo "make gallery    the images of docs/gallery.md, drawn and trained here"

environment:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,requirements)

test-environment: environment
	$(call install,requirements-dev)

browser-environment: test-environment
	$(call install,requirements-browser)

export-environment: test-environment
	$(call install,requirements-export)

oracle-environment: test-environment
	$(call install,requirements-oracle)
	$(call install-alone,requirements-oracle-alone)

lint-environment: environment
	$(call install,requirements-lint)

docs-environment: environment
	$(call install,requirements-docs)

demo: environment
	@$(BIN)/python demo.py

test: test-environment
	@$(PYTEST) -m "not slow and not browser" $(TESTS)

test-slow: browser-environment export-environment oracle-environment
	@$(PYTEST) -m "slow or browser or export or oracle" $(TESTS)

test-all: browser-environment export-environment oracle-environment
	@$(PYTEST) $(TESTS)

lint: lint-environment
	@status=0; \
	$(BIN)/ruff check --quiet || status=1; \
	$(BIN)/ruff format --check --quiet || status=1; \
	$(BIN)/codespell || status=1; \
	$(BIN)/python tools/mypy_ratchet.py || status=1; \
	exit $$status

format: lint-environment
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

docs: docs-environment
	@$(BIN)/python -m mkdocs build --strict

gallery: environment
	@$(BIN)/python tools/gallery.py
