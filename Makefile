# Every command works from a bare clone: the first one sets up .venv, the next ones start at once.
# No package index is named here: pip's environment variables and configuration decide where packages come from.

PYTHON ?= python3
TORCH ?= torch==2.13.0
JOBS ?= 2
DATA ?=
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
# Named after what was installed where, so that another TORCH or a moved clone installs again.
STAMP := $(VENV)/.installed-$(shell printf '%s' "$(TORCH) $(CURDIR)" | cksum | cut -d ' ' -f 1)
PIP_INSTALL := $(PY) -m pip install -q --disable-pip-version-check
# One thread per process: the test workers share few cores.
TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg

DEMO := outputs/demo
CHROMIUM ?= /usr/bin/chromium
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow common-tests check format docs install space space-test

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: TORCH=$(TORCH)  PYTHON=$(PYTHON)  JOBS=$(JOBS)  DATA=folder (demo)  ARGS='options of pytest'"

demo: install  ## train a tiny model and plot its reconstructions in outputs/demo (< 10 min on 2 cores); DATA=folder: on your spectra
	$(PY) examples/demo.py $(if $(DATA),--data "$(DATA)") --output_dir outputs/demo

test: install  ## run the test suite
	$(TEST_ENV) $(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-slow: common-tests  ## run the common tests, then what takes long
	$(TEST_ENV) $(PY) -m pytest -m "slow and not gpu and not network" --durations 10 $(ARGS)

common-tests: install  ## run Transformers' own common model tests against this package
	$(TEST_ENV) $(PY) tests/common/run.py

# Written anew each time, and run from there, as the Hub would.
space: install  ## try the Space in a browser, with the model and the heads of make demo
	@test -f $(DEMO)/model/config.json || { echo "no model in $(DEMO)/model: run make demo first"; exit 1; }
	$(PIP_INSTALL) -e ".[space]"
	$(VENV)/bin/spectok space $(DEMO)/model outputs/space/demo --overwrite \
		$(patsubst %/config.json,--head "%",$(wildcard $(DEMO)/heads/*/config.json))
	$(PY) outputs/space/demo/app.py

space-test: install  ## test the Space in Chromium, and install what that needs (screenshots in outputs/space)
	$(PIP_INSTALL) -e ".[space]" playwright
	@test -x $(CHROMIUM) || $(AS_ROOT) apt-get install -y -q chromium || \
		{ $(AS_ROOT) apt-get update -q && $(AS_ROOT) apt-get install -y -q chromium; } || \
		echo "Chromium could not be installed from Debian's packages: the test will say that it was skipped"
	$(TEST_ENV) CHROMIUM="$(CHROMIUM)" $(PY) -m pytest -m slow tests/hub/test_space_browser.py $(ARGS)

check: install  ## check formatting, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: install  ## format, and repair what the linter can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: install  ## build the documentation in docs/_build/html; a warning is an error
	$(TEST_ENV) $(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

install: $(STAMP)  ## set up .venv only
	@:

$(PY):
	@echo "Creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)

# A .venv whose pip does not run was left half made, and is made anew.
$(STAMP): pyproject.toml $(PY)
	@rm -f $(VENV)/.installed-*
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing $(TORCH): at once where it is there already, else a download of up to a few GB (1 to 10 minutes)"
	@$(PIP_INSTALL) "$(TORCH)"
	@echo "Installing spectok-hf and what its tests need (about 2 minutes)"
	@$(PIP_INSTALL) -e ".[dev]"
	@touch $@
