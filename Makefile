# `make demo` and `make test` set everything up on a clean machine. The other targets are for development.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS = $(shell $(BIN)/python -c "import os; print(min(8, 1 + (os.cpu_count() or 1)))")
PARALLEL = --numprocesses=$(WORKERS) --dist=worksteal

.PHONY: demo test test-all fuzz lint fmt bench bench-recipe release install clean

# With bytecode on disk, the processes that tests start begin sooner.
test test-all: export PYTHONDONTWRITEBYTECODE =

demo: $(INSTALLED)
	$(BIN)/randygpt demo

test: $(INSTALLED)
	$(BIN)/pytest -m "not full" $(PARALLEL)

test-all: $(INSTALLED) .venv-relays/.installed .venv-lm-eval/.installed tests/relays/node_modules/.installed
	@$(MAKE) --silent .venv-fuzz/.installed || echo "NOT FUZZED: no atheris for this Python"
	$(BIN)/pytest -m "not full" $(PARALLEL) --hypothesis-profile=thorough
	$(BIN)/pytest -m full --hypothesis-profile=thorough

# `make fuzz SECONDS=600 ONLY=manifest SEED=7` fuzzes the targets whose name contains the text.
fuzz: SECONDS = 60
fuzz: $(INSTALLED) .venv-fuzz/.installed
	PYTHONPATH=.venv-fuzz:tests:. $(BIN)/python -m fuzz.runner --seconds "$(SECONDS)" --seed "$(SEED)" --only "$(ONLY)"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@if command -v systemd-analyze >/dev/null; then deploy/check-units.sh; else echo "NOT CHECKED: units (no systemd-analyze)"; fi
	@if command -v shellcheck >/dev/null; then shellcheck deploy/*.sh deploy/systemd/*.sh scripts/*.sh; else echo "NOT CHECKED: deploy/*.sh, deploy/systemd/*.sh, scripts/*.sh (no shellcheck)"; fi

fmt: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Benchmarks use relays and releases of the tests' support package.
bench bench-recipe: export PYTHONPATH = $(CURDIR)/tests

# `make bench ONLY="slow sockets"` measures the rows whose name contains the text.
bench: $(INSTALLED)
	$(BIN)/python benchmarks/run.py --only "$(ONLY)"

bench-recipe: $(INSTALLED)
	$(BIN)/python benchmarks/run.py --recipe --only "$(ONLY)"

release: $(INSTALLED)
	scripts/release.sh

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt hatch_build.py randygpt/model/decode_step.c
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "randygpt needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Other relays for the full tests, in their own environment because they pin old versions.
.venv-relays/.installed: tests/relays/requirements.txt
	test -x .venv-relays/bin/python || $(PYTHON) -m venv .venv-relays
	.venv-relays/bin/pip install --quiet --disable-pip-version-check --requirement tests/relays/requirements.txt
	touch $@

# The evaluation harness of the full tests.
.venv-lm-eval/.installed: tests/server/lm_eval_requirements.txt
	test -x .venv-lm-eval/bin/python || $(PYTHON) -m venv .venv-lm-eval
	.venv-lm-eval/bin/pip install --quiet --disable-pip-version-check --requirement tests/server/lm_eval_requirements.txt
	touch $@

# The fuzzer, which has wheels for some versions of Python only.
.venv-fuzz/.installed: tests/fuzz/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: --upgrade --target .venv-fuzz --requirement tests/fuzz/requirements.txt
	touch $@

tests/relays/node_modules/.installed: tests/relays/package.json
	npm install --prefix tests/relays --no-audit --no-fund --loglevel=error
	touch $@

clean:
	rm -rf $(VENV) .venv-relays .venv-lm-eval .venv-fuzz fuzz-findings tests/relays/node_modules benchmarks/peers/.packages benchmarks/peers/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
