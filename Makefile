# make test: set up and run all checks.   make demo: set up and run the main job.   make slow: minutes of statistics.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test keras slow lint bench clean

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
	$(MAKE) keras

# Keras takes one backend in a process; `make test` has run these tests on JAX.
keras: $(VENV)/ready
	KERAS_BACKEND=torch $(BIN)/python -m pytest -n auto tests/keras
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n auto tests/keras

slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow tests/slow

bench: $(VENV)/ready
	$(BIN)/python benchmarks/fills.py benchmarks/results/fills.md
	$(BIN)/python benchmarks/models.py benchmarks/results/models.md
	for backend in jax tensorflow torch; do \
	  KERAS_BACKEND=$$backend $(BIN)/python benchmarks/keras_models.py benchmarks/results/keras_models.md || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
