# Aliases: ./run does the same where there is no make.
.DEFAULT_GOAL := help
.PHONY: help check lint format types floors generate generated-check lua test test-fast faults \
	model mutants bench nemesis clean

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | \
		awk -F'|' '{ printf "  %-16s %s\n", $$1, $$2 }'

check: ## everything that CI checks
	./run check

lint: ## ruff: rules and format
	./run check lint format

format: ## rewrite the Python files in the project's format
	./run python -m ruff check --fix-only --quiet .
	./run python -m ruff format .

types: ## mypy --strict
	./run check types

floors: ## imports point only down
	./run check floors

generate: ## write what is generated: quota_engine/_sync, README's settings, docs/faults.md, tables of metrics
	./run python -m tools.unasync
	./run python -m tools.settings_table
	./run python -m tools.faults_table
	./run python -m tools.metrics_table

generated-check: ## the generated files are the ones that generate would write
	./run check generated

lua: ## luacheck on the expanded scripts
	./run check lua

test: ## the whole test suite
	./run test

test-fast: ## the tests that take moments
	./run test -m "not slow and not fault"

faults: ## the fault matrix: real processes killed, cut and rolled back
	./run test -m "fault or row or fault_slow"

model: ## the protocol's model, larger scopes included
	./run test tests/model -m "slow or deep or not slow"

mutants: ## every seeded fault turns the suite red
	./run python -m tools.mutants

bench: ## what a call costs on this machine
	./run bench

nemesis: ## random faults against running servers, for as long as SECONDS says
	./run python -m tools.nemesis $(if $(SECONDS),--seconds $(SECONDS))

clean: ## remove what is generated outside version control, the environment too
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis htmlcov .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
