# The whole developer interface. Everything is installed into .venv, with the tested versions.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

export HF_HUB_OFFLINE := 1

.PHONY: help setup demo applications app pretrained test test-core test-model test-whole test-real test-integrations test-ray test-browser test-long ci check packages bench docs build trust faults soak coverage mutants licences audit clean

help:
	@echo "make demo    what a memory does, in the terminal, on the embedded model; another one with"
	@echo "             MODEL=templora/smollm2 (fetched once), MODEL=auto, a hub id, a folder, a .gguf file"
	@echo "make applications   the five applications of demos, one after the other"
	@echo "make app     the role-play page, on this machine alone (MODEL= as above)"
	@echo "make test    all tests that need neither GPU, browser nor network; FILE=tests/domain/test_ids.py: of"
	@echo "             one file or folder"
	@echo "make test-fast   in under a minute: the tests that need no model"
	@echo "make test-long   what takes minutes and repeats a published result"
	@echo "make test-real   on the pretrained model templora/smollm2, where it can be fetched"
	@echo "make test-ray   several replicas of the server with Ray Serve (installs the extra ray)"
	@echo "make test-browser   the page's tests in a headless Chromium (installs Debian's)"
	@echo "make ci      all of these tests and checks, as before a merge"
	@echo "make fix     what the linter can repair, and the format"
	@echo "make test-next   the unit tests on Python 3.12, in .venv-next, where it is installed"
	@echo "make check   linter, formatter, types, import rules, documentation"
	@echo "make packages   wheels of all distributions, each installed into an empty environment and imported"
	@echo "make bench   what learning and answering cost, side by side (FILE=book.txt: and quality)"
	@echo "make faults  kills, full disks, bit flips in hundreds of places; a report in JSON"
	@echo "make trust   all suites against the promises; the figures of docs/explanation/trust.md"
	@echo "make soak    an hour with more and more memories: no growth in threads, files, memory"
	@echo "make coverage   lines and branches that the tests reach (FOLDERS=tests/service: of some)"
	@echo "make mutants    changes to the pure modules and the store that no test notices"
	@echo "make licences   of everything that is installed along"
	@echo "make audit   known weaknesses of the tested versions (asks a service on the network)"
	@echo "make docs    the documentation into site/"
	@echo "make docs-serve   the documentation at http://127.0.0.1:8001, made again at every change"
	@echo "make build   wheel and source archive into dist/"
	@echo "make setup   only install"

setup: .setup-test

.setup-core: pyproject.toml constraints.txt
	@echo "Installing into .venv, once: a few minutes ..."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) pip
	$(INSTALL) torch==2.13.0
	$(INSTALL) --editable .
	touch $@

EVERYTHING := .[app,documents,encryption,evaluation,importers,json,metrics,objects,plots,serve,traces,translation]

.setup-app: .setup-core
	@echo "Installing the page ..."
	$(INSTALL) --editable .[app,importers]
	touch $@

.setup-test: .setup-core integrations/langchain/pyproject.toml integrations/llama_index/pyproject.toml
	@echo "Installing what the tests need ..."
	$(INSTALL) --editable $(EVERYTHING) --group test \
	  --editable integrations/langchain[agents,classic] --group integrations/langchain/pyproject.toml:test \
	  --editable integrations/llama_index --group integrations/llama_index/pyproject.toml:test
	touch $@

.setup-next: pyproject.toml constraints.txt
	@echo "Installing into .venv-next, once: a few minutes ..."
	test -x .venv-next/bin/python || $(NEXT) -m venv .venv-next
	$(subst $(BIN),.venv-next/bin,$(INSTALL)) torch==2.13.0
	$(subst $(BIN),.venv-next/bin,$(INSTALL)) --editable $(EVERYTHING) --group test
	touch $@

.setup-bench: .setup-core
	$(INSTALL) --editable .[plots]
	touch $@

.setup-browser: .setup-test
	command -v chromium || (apt-get update -qq && apt-get install -y -qq chromium)
	$(INSTALL) --group browser
	touch $@

.setup-ray: .setup-test
	@echo "Installing Ray Serve ..."
	$(INSTALL) --editable .[ray]
	touch $@

.setup-check: .setup-test
	$(INSTALL) --group lint --group docs
	touch $@

# The pretrained model learns a bio in minutes, the embedded one in seconds
MODEL ?= templora/tiny

demo: .setup-core
	$(BIN)/python demos/terminal_demo.py --model $(MODEL)

applications: .setup-core
	for name in rag_beside_memory role_play assistant npc_town translation; do \
	  $(BIN)/python demos/$$name.py --model $(MODEL) || exit 1; done

app: .setup-app
	$(BIN)/templora demo --model $(MODEL)

# Once, into the user's cache; without a network the tests that need it are skipped and say so
pretrained: .setup-core
	-$(BIN)/templora model get smollm2

# All, or with FILE= those of one file or folder. Two of five suites at a time: small models gain
# nothing from a second thread
test: .setup-test
ifdef FILE
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not browser" $(FILE)
else
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --jobs=2 --output-sync=target test-model test-whole test-core test-integrations test-real
endif

# what needs neither a model nor a server, without the files that take longest
UNIT := $(wildcard $(addprefix tests/,unit domain fs service importers testing tools))
FAST := $(UNIT) $(wildcard tests/evaluation) tests/plugins/test_plugins.py
SLOW := test_histories test_hostile test_replay test_soak test_speed test_tiny_model test_train_tiny

.PHONY: test-fast test-next
test-fast: .setup-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not gpu and not browser and not long and not slow" \
	  $(FAST) $(patsubst %,--ignore-glob='*/%.py',$(SLOW))

# the slow ones, each a suite of its own; the rest is test-core
LOCAL := tests/local tests/roleplay
WHOLE := tests/e2e tests/cli
REAL := tests/real
RAY := tests/server/test_ray.py

test-core: .setup-test
	$(BIN)/python -m pytest -m "not gpu and not browser and not long" $(patsubst %,--ignore=%,$(LOCAL) $(WHOLE) $(REAL) $(RAY))

test-model: .setup-test
	$(BIN)/python -m pytest -m "not gpu and not browser and not long" $(LOCAL)

test-whole: .setup-test
	$(BIN)/python -m pytest -m "not gpu and not browser and not long" $(WHOLE)

test-real: .setup-test
	$(BIN)/python -m pytest -m "not gpu and not browser" $(REAL)

# The next Python, in an environment of its own; a version manager may have the name without it
NEXT ?= python3.12
test-next:
	@if $(NEXT) --version >/dev/null 2>&1; then \
	  $(MAKE) --no-print-directory .setup-next && \
	  OMP_NUM_THREADS=1 .venv-next/bin/python -m pytest -q -m "not gpu and not browser and not long" $(UNIT); \
	else echo "Skipped: the unit tests on $(NEXT), which is not installed."; fi

test-integrations: .setup-test
	$(BIN)/python -m pytest -m "not gpu and not browser" integrations/langchain/tests
	$(BIN)/python -m pytest -m "not gpu and not browser" integrations/llama_index/tests

# A suite of its own: Ray is large, and without it these tests are skipped
test-ray: .setup-ray
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(RAY)

test-long: .setup-test
	$(BIN)/python -m pytest -m long tests

test-browser: .setup-browser
	$(BIN)/python -m pytest -m browser tests/roleplay

# All that has to pass before a change is merged, the longest first; three at a time on two cores,
# because the browser's tests and those of kills and servers mostly wait
ci: .setup-check .setup-browser pretrained
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --jobs=3 --output-sync=target \
	  test-whole test-browser test-model test-core test-real test-integrations check

.PHONY: fix docs-serve
fix: .setup-check
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

check: .setup-check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	cd integrations/langchain && ../../$(BIN)/mypy
	cd integrations/llama_index && ../../$(BIN)/mypy --strict --config-file ../../pyproject.toml \
	  --namespace-packages --explicit-package-bases llama_index/memory/templora examples tools
	$(BIN)/lint-imports
	$(MAKE) docs

docs: .setup-check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: .setup-check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8001

# FILE=book.txt adds the comparison of quality; BENCH=folder says where tables and pictures go
BENCH ?= build/bench
bench: .setup-bench
	mkdir -p $(BENCH)
	$(BIN)/templora bench speed $(FILE) --plots $(BENCH) --json > $(BENCH)/speed-tiny.json
	$(BIN)/templora bench speed --model 121m --repeats 3 --history 8000 --json > $(BENCH)/speed-121m.json
	$(BIN)/python -m json.tool --no-ensure-ascii $(BENCH)/speed-tiny.json | head -20
	@echo "All of it is in $(BENCH)."

packages: .setup-test
	$(BIN)/python -m tools.check_packages

# PLACES random places for each kind of fault, EXAMPLES random orders, SEED chooses them
PLACES ?= 100
EXAMPLES ?= 24
SEED ?= 0
TRUST := OMP_NUM_THREADS=1 $(BIN)/python -m tools.trust --places $(PLACES) --examples $(EXAMPLES) --seed $(SEED)

faults: .setup-test
	$(TRUST) faults --out build/faults.json

trust: .setup-test
	$(TRUST) --out build/trust.json --page docs/explanation/trust.md

MINUTES ?= 60
soak: .setup-test
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.soak --minutes $(MINUTES)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.soak --minutes $(MINUTES) --encrypted --out build/soak-encrypted.json

FOLDERS ?= tests
coverage: .setup-test
	mkdir -p build/coverage
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -m "not gpu and not browser and not long" $(FOLDERS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o build/coverage/report.json
	$(BIN)/coverage report

# what no test notices is listed at the end; `mutmut show NAME` shows it (MUTANTS="templora_memory.domain.ids*": some).
# TMPDIR=/dev/shm makes it several times as fast: the stores wait for the disk
mutants: .setup-test
	$(INSTALL) --group mutants
	OMP_NUM_THREADS=1 $(BIN)/mutmut run $(MUTANTS)
	$(BIN)/mutmut results

licences: .setup-test
	$(BIN)/python -m tools.licences app documents encryption evaluation importers json metrics plots serve traces translation

audit: .setup-core
	$(INSTALL) pip-audit
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip || { \
	  echo "Not audited as a whole. Weaknesses are listed above; 'could not be audited' or a" >&2; \
	  echo "ConnectionError says that https://pypi.org was not reached, or a copy of it that knows" >&2; \
	  echo "no weaknesses: run it where https://pypi.org answers." >&2; exit 1; }

build: .setup-check
	$(INSTALL) build
	$(BIN)/python -m build --outdir dist

clean:
	rm -rf .venv .venv-next .setup-* dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
