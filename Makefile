# make demo: a project generated, installed, trained twice and compared.  make test: every test.

PYTHON ?= python3
BIN := .venv/bin
# Two files of tests side by side: much of a training is the start of its process, on one core.
REAL := -q -m real --durations=25 -n 2 --dist loadfile
# Not in the generated tree, which has a pyproject.toml of its own: what lies there is generated.
export RUFF_CACHE_DIR := $(CURDIR)/.ruff_cache

.PHONY: help demo test proof mutation test-fast check fix lock locks results clean supported

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

supported:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) \
	else "Python 3.11 or later is needed, not %d.%d: make demo PYTHON=python3.12" % v)'

.venv/installed: requirements/dev.txt | supported
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

demo: .venv/installed ## generate a project into build/demo, train it twice, compare
	rm -rf build/demo
	$(BIN)/cookiecutter . --no-input --output-dir build project_slug=demo
	$(MAKE) --no-print-directory -C build/demo install verify UV="$(CURDIR)/$(BIN)/uv" \
		PYTHON="$(CURDIR)/$(BIN)/python"

test: .venv/installed ## every test: quick ones first, then projects generated, installed, trained
	$(BIN)/python -m pytest -q -m "not real" tests
	$(BIN)/python -m pytest $(REAL) tests

proof: .venv/installed ## the whole of what the tests try a part of: hours
	REPRO_FULL=1 $(BIN)/python -m pytest $(REAL) tests $(ARGS)

mutation: .venv/installed ## faults put into the core: which of them do its tests see? an hour
	mkdir -p build/mutation
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/mutation/venv
	$(BIN)/uv pip sync --quiet --require-hashes --python build/mutation/venv requirements/mutation.txt
	rm -rf build/mutation/core
	$(BIN)/cookiecutter . --no-input --output-dir build/mutation project_slug=core git_init=no
	$(MAKE) --no-print-directory -C build/mutation/core install UV="$(CURDIR)/$(BIN)/uv" \
		PYTHON="$(CURDIR)/$(BIN)/python"
	build/mutation/venv/bin/python -m benchmarks.mutation build/mutation/core $(ARGS)

test-fast: .venv/installed ## the tests that install and train nothing
	$(BIN)/python -m pytest -q -m "not real" tests

check: .venv/installed ## lint, format and types; writes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH="{{cookiecutter.project_slug}}/src" $(BIN)/lint-imports

fix: .venv/installed ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Of the generated projects; its name has braces and spaces.
lock: OVERRIDES = "{{cookiecutter.project_slug}}/requirements/{% if cookiecutter.__backend == 'tensorflow' %}overrides.txt{% endif %}"
lock: .venv/installed ## pin requirements/*.in in requirements/*.txt
	@for name in dev machinery tables hub more onnx-jax mutation; do \
		(set --; test $$name != hub || set -- --override $(OVERRIDES); set -x; \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" $(ARGS) "$$@" \
		--output-file requirements/$$name.txt requirements/$$name.in) || exit 1; done

locks: .venv/installed ## pin what the generated projects install, for each backend (ARGS=--upgrade)
	@for backend in tensorflow jax torch; do (set -e; \
		made=build/locks/$$backend; rm -rf $$made; \
		$(BIN)/cookiecutter . --no-input --output-dir $$made backend=$$backend git_init=no; \
		$(MAKE) --no-print-directory -C $$made/* lock PY="$(CURDIR)/$(BIN)/python"; \
		for name in cpu cuda dev; do \
			lock="{% if cookiecutter.__backend == '$$backend' %}$$name.txt{% endif %}"; \
			cp $$made/*/requirements/$$name.txt "{{cookiecutter.project_slug}}/requirements/$$lock"; \
		done) || exit 1; done

# What every new project is compared with: made anew whenever a recipe, a lock or the code changes.
results: .venv/installed ## record in the generated project's results.lock what its recipe gives
	rm -rf build/results
	$(BIN)/cookiecutter . --no-input --output-dir build/results project_slug=demo git_init=no
	$(MAKE) --no-print-directory -C build/results/demo install update ARGS=guarantee=portable \
		UV="$(CURDIR)/$(BIN)/uv" PYTHON="$(CURDIR)/$(BIN)/python"
	cp build/results/demo/results.lock \
		"{{cookiecutter.project_slug}}/{% if cookiecutter.__backend == 'tensorflow' %}results.lock{% endif %}"

clean: ## remove what was built
	rm -rf build .venv .mypy_cache .pytest_cache .ruff_cache
