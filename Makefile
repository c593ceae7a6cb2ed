# `make` lists the targets; CONTRIBUTING.md says more about them.

# the bytecode of the libraries, once written, halves every later start
unexport PYTHONDONTWRITEBYTECODE

# uv from the path, or else installed from the Python package index
UV := $(shell command -v uv || echo .venv-uv/bin/uv)

.PHONY: help local test bench setup setup-local

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.* ## /make \1 \t/p' Makefile | expand -t 14

local: setup-local ## send 100 example orders through the pipeline on this machine, then serve until Ctrl-C
	@.venv/bin/python -m local up --orders examples/orders.jsonl $(ARGS)

test: setup ## check format, lint, types and workflows, and run every test
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo --no-cache
	@.venv/bin/zizmor --offline --quiet .github
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-actions .github/actions/*/action.yml
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@.venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder

bench: setup ## measure speed, and write bench/RESULTS.md
	@.venv/bin/python -m bench

setup: $(UV) ## install everything that the other targets need
	@$(UV) sync --locked --quiet
	@$(UV) sync --locked --quiet --no-dev --project handler

# without linters, type checker and tests; --inexact keeps those that are installed
setup-local: $(UV)
	@$(UV) sync --locked --quiet --inexact --no-default-groups --group local
	@$(UV) sync --locked --quiet --no-dev --project handler

.venv-uv/bin/uv:
	@python3 -m venv .venv-uv
	@.venv-uv/bin/pip install --quiet --disable-pip-version-check uv
