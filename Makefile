# make demo: train, validate and detect on a data set drawn here.  make test: the tests.
# PYTHON= picks the interpreter that makes the environment, VENV= the folder it lies in.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement

.PHONY: help environment test-environment demo test

help:
	@echo "make demo   make an environment, train an attention variant on drawn scenes, validate it, detect with it"
	@echo "make test   make the environment and run the tests (TESTS=tests/test_nms.py for some of them)"

# Each stamp is a copy of the requirements it was made from: what changed is installed, what did not is not.
environment:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@cmp -s requirements.txt $(VENV)/installed.txt || { echo "installing requirements.txt into $(VENV) ..." \
	  && $(PIP) requirements.txt && cp requirements.txt $(VENV)/installed.txt; }

test-environment: environment
	@cmp -s requirements-dev.txt $(VENV)/installed-dev.txt || { echo "installing requirements-dev.txt into $(VENV) ..." \
	  && $(PIP) requirements-dev.txt && cp requirements-dev.txt $(VENV)/installed-dev.txt; }

demo: environment
	@$(BIN)/python demo.py

test: test-environment
	@$(BIN)/python -m pytest -q $(TESTS)
