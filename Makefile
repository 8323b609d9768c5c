PYTHON ?= python3.11
VENV := .venv
KVCI := $(VENV)/bin/kvci

.PHONY: demo test test-long test-faults test-train reference check install lock
demo: $(VENV)/ready
	$(KVCI) demo

test: $(VENV)/ready-dev
	$(VENV)/bin/pytest -m "not long and not faults and not train" -n 3 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/ready-dev
	$(VENV)/bin/pytest -m long

test-faults: $(VENV)/ready-dev
	$(VENV)/bin/pytest -m faults

test-train: $(VENV)/ready-dev
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[train]'
	$(VENV)/bin/pytest -m train

reference: $(VENV)/ready
	$(VENV)/bin/python -m kvci.cli.reference

check: $(VENV)/ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/zizmor --offline --persona auditor --quiet .github ci/adopt/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml ci/adopt/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml
	$(VENV)/bin/actionlint
	$(VENV)/bin/actionlint ci/adopt/*.yml

# What the workflows' jobs install: only files that the lock names by their hash.
install:
	$(PYTHON) -m venv --clear $(VENV) || python3 -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --require-hashes --only-binary :all: -r ci/requirements.txt
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation .

# Makes the lock again after a change of pyproject.toml. With UPGRADE=--upgrade, all versions are new.
lock: $(VENV)/ready-dev
	$(VENV)/bin/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
	  --extra build --generate-hashes --custom-compile-command "make lock" $(UPGRADE) \
	  --output-file ci/requirements.txt pyproject.toml

$(VENV)/ready: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
