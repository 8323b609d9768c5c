PYTHON ?= python3.11
VENV := .venv
KVCI := $(VENV)/bin/kvci

.PHONY: demo test test-long test-faults test-train reference check
demo: $(VENV)/ready
	$(KVCI) demo

test: $(VENV)/ready-dev
	$(VENV)/bin/pytest -m "not long and not faults and not train" -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/ready-dev
	$(VENV)/bin/pytest -m long

test-faults: $(VENV)/ready-dev
	$(VENV)/bin/pytest -m faults

test-train: $(VENV)/ready-dev
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[train]'
	$(VENV)/bin/pytest -m train

reference: $(VENV)/ready
	$(VENV)/bin/python -m kvci.cli.reference > ci/experiments/README.md

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

$(VENV)/ready: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
