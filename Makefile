# The commands a newcomer types. `make demo` and `make test` do all the set-up they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test test-all test-gpu lint types contracts format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/aimbench demo

test: lint types contracts install
	$(BIN)/python -m pytest -m "not slow"

test-all: lint types contracts install
	$(BIN)/python -m pytest

# Only the tests that need a CUDA GPU; without one they are skipped with that reason.
test-gpu: install
	$(BIN)/python -m pytest -m gpu -rs

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Methods and baselines lie outside the package's folder, where mypy can't see that they belong to it.
types: install
	rm -rf build/typed && mkdir -p build/typed/aimbench
	ln -s $(CURDIR)/aimbench/* $(CURDIR)/methods $(CURDIR)/baselines build/typed/aimbench/
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

contracts: install
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
