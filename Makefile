# make demo      train, freeze, pack and run a one-bit network on the embedded digits
# make test      the tests, but for those marked slow
# make test-slow those
# make test-all  all of them
# make lint      lint, format and types; what is in .github against its schemas
# make docs      the site of docs/ and the API reference, into build/docs
# make bench     how fast this machine runs one-bit networks, beside PyTorch and ONNX Runtime
#
# Each sets up .venv first. PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
READY := .venv/.installed
C_FILES := $(wildcard native/*.c native/*.h native/*.cpp native/*.hpp tests/native/*.c tests/native/export/*.c examples/*.c examples/cortex_m/*.c src/bnn/export/web/engine/*.c)

.PHONY: demo test test-slow test-all lint lint-github docs bench clean

demo: $(READY)
	$(BIN)/bnn train digits --out $(DEMO) --force
	$(BIN)/bnn eval $(DEMO)
	$(BIN)/bnn info $(DEMO)
	@echo
	@echo "The curves are in $(DEMO)/curves.png, the packed network in $(DEMO)/model.bnn."

# worksteal: an idle worker takes tests from the end of the other's list, so tests that share fixtures stay together.
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(READY)
	$(PYTEST) -m "not slow"

test-slow: $(READY)
	$(PYTEST) -m slow

test-all: $(READY)
	$(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	$(BIN)/mypy
	$(MAKE) --no-print-directory lint-github

SCHEMA := $(BIN)/check-jsonschema --quiet --builtin-schema

lint-github: $(READY)
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) custom.github-workflows-require-timeout .github/workflows/*.yml
	$(SCHEMA) vendor.dependabot .github/dependabot.yml
	$(SCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA) vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

docs: $(READY)
	$(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going docs build/docs
	@echo "The site is in build/docs/index.html."

bench: $(READY)
	$(BIN)/bnn bench

$(READY): pyproject.toml .ci/locks/dev.txt CMakeLists.txt $(wildcard cmake/* native/*)
	@.ci/venv $(PYTHON)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .venv/constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
