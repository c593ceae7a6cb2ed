# `make local` runs the pipeline on this machine, `make test` checks everything, `make bench` measures, `make setup` only prepares.

# bytecode of the libraries, once written, halves every later start
unexport PYTHONDONTWRITEBYTECODE

# the engine, where .ci/run has built one
export PATH := $(CURDIR)/.pulumi-cli:$(PATH)

# uv from the path, or one of our own from the package index
UV := $(shell command -v uv || echo .venv-uv/bin/uv)

.PHONY: local test bench setup

local: setup
	@.venv/bin/python -m local up --orders examples/orders.jsonl

test: setup
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/zizmor --offline --quiet .github/workflows
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@.venv/bin/pytest -n auto --dist loadfile

bench: setup
	@.venv/bin/python -m bench

setup: $(UV)
	@$(UV) sync --locked --quiet
	@$(UV) sync --locked --quiet --no-dev --project handler

.venv-uv/bin/uv:
	@python3 -m venv .venv-uv
	@.venv-uv/bin/pip install --quiet --disable-pip-version-check uv
