# The whole developer interface. Everything is installed into .venv, with the tested versions.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

export HF_HUB_OFFLINE := 1

.PHONY: help setup demo test check bench docs build clean

help:
	@echo "make demo    what a memory does, in the terminal, on the embedded model"
	@echo "make test    all tests that need neither GPU, browser nor network"
	@echo "make check   linter, formatter, types, import rules, documentation"
	@echo "make bench   perplexity of FILE=... with and without memory (MODEL=..., TOKENS=...)"
	@echo "make docs    the documentation into site/"
	@echo "make build   wheel and source archive into dist/"
	@echo "make setup   only install"

setup: .setup-test

.setup-core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) pip
	$(INSTALL) torch==2.13.0
	$(INSTALL) --editable .
	touch $@

.setup-test: .setup-core
	$(INSTALL) --group test
	touch $@

.setup-check: .setup-test
	$(INSTALL) --group lint --group docs
	touch $@

demo: .setup-core
	$(BIN)/python demos/terminal_demo.py

test: .setup-test
	$(BIN)/python -m pytest -m "not gpu and not browser"

check: .setup-check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) docs

docs: .setup-check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

MODEL ?= templora/tiny
TOKENS ?= 20000
bench: .setup-core
	@test -n "$(FILE)" || { echo "Which text? make bench FILE=book.txt"; exit 2; }
	$(BIN)/templora bench perplexity "$(FILE)" --model "$(MODEL)" --tokens $(TOKENS)

build: .setup-check
	$(INSTALL) build
	$(BIN)/python -m build --outdir dist

clean:
	rm -rf .venv .setup-* dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
