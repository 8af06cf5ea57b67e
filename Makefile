# Every target sets up .venv first when it is missing or older than constraints.txt and pyproject.toml.
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
LVMZOO := .venv/bin/lvmzoo
NAME ?=
PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q
# Run once more with the shapes of all arrays checked at every call, which makes a test take about twice as long.
CHECKED := tests/data tests/parts tests/inference \
	tests/contract/test_every_model.py::test_shapes_and_finite_values \
	tests/contract/test_every_model.py::test_statistics_add_up_over_any_partition \
	tests/contract/test_every_metric.py::test_it_needs_a_capability_or_gives_no_row
# Some images forbid Python to keep what it compiled: each command would compile its packages anew, for seconds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup train test lint audit fuzz bench results clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv/.stamp: constraints.txt pyproject.toml scripts/setup.sh
	@scripts/setup.sh

.venv/.stamp-bench: .venv/.stamp
	@scripts/setup.sh bench

setup: .venv/.stamp ## make or update .venv

train: .venv/.stamp ## simulate a reach task as an NWB file, fit an LDS to it, write a report
	@mkdir -p data
	@test -f data/reach.nwb || { $(LVMZOO) simulate reach data/unfinished.nwb >/dev/null && mv data/unfinished.nwb data/reach.nwb; }
	@$(LVMZOO) train experiment=reach_lds data.path=data/reach.nwb

test: lint ## check style and types, run the tests
	@$(PYTEST) -n 2 --dist worksteal
	@$(PYTEST) -n 2 --dist worksteal --jaxtyping-packages=lvmzoo,beartype.beartype $(CHECKED)

lint: .venv/.stamp ## ruff and mypy
	@$(PYTHON) -m ruff check -q .
	@$(PYTHON) -m ruff format -q --check .
	@$(PYTHON) -m mypy --no-error-summary

audit: .venv/.stamp ## look for insecure code, and for known holes in the packages of the lock (needs a network)
	@$(PYTHON) scripts/audit.py

fuzz: .venv/.stamp ## the property-based tests of configs and arrays, with 20 times as many examples, new ones each time
	@LVMZOO_FUZZ=20 $(PYTEST) --timeout 7200 tests/test_fuzz.py

bench: .venv/.stamp-bench ## compare with peers (NAME=lds for one), write benchmarks.json and RESULTS.md
	@$(PYTHON) scripts/claims.py benchmarks $(NAME)

results: .venv/.stamp-bench ## rerun the figures of RESULTS.md (NAME=lds for one), write results.json
	@$(PYTHON) scripts/claims.py results $(NAME)

clean: ## remove the environment, caches and builds; runs and data stay
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
