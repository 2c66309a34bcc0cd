# make test: set up and run all checks.   make demo: set up and run the main job.   make slow: minutes of statistics.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test slow lint bench clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n auto

slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow tests/slow

bench: $(VENV)/ready
	$(BIN)/python benchmarks/fills.py benchmarks/results/fills.md
	$(BIN)/python benchmarks/models.py benchmarks/results/models.md
	$(BIN)/python benchmarks/flax_starts.py benchmarks/results/flax.md

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
