# make test: set up and run all checks.   make demo: set up and run the main job.   make slow: minutes of statistics.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# MXNet is built for Python up to 3.11, and needs an older NumPy: it has an environment of its own.
GLUON        ?= .venv-gluon
GLUON_PYTHON ?= $(shell for p in $(PYTHON) python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null && echo $$p && break; done)
SPINE        := tests/test_golden.py tests/test_layouts.py

.PHONY: demo test gluon keras slow lint bench bench-gluon clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

$(GLUON)/ready: pyproject.toml constraints-gluon.txt
	$(GLUON_PYTHON) -m venv $(GLUON)
	$(GLUON)/bin/python -m pip install --quiet --upgrade pip
	$(GLUON)/bin/python -m pip install --quiet -c constraints-gluon.txt -e '.[gluon-test]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ifeq ($(GLUON_PYTHON),)
gluon:
	@echo "No Python 3.10 or 3.11 is here, which MXNet needs: its tests are left out."
else
gluon: $(GLUON)/ready
	$(GLUON)/bin/python -m pytest -n auto tests/gluon docs/tutorial/gluon.md $(SPINE)
endif

test: lint gluon keras
	$(BIN)/python -m pytest -n auto

# Keras takes one backend in a process; the tests without these two lines run it on JAX.
keras: $(VENV)/ready
	KERAS_BACKEND=torch $(BIN)/python -m pytest -n auto tests/keras
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n auto tests/keras

slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow tests/slow

bench: $(VENV)/ready
	$(BIN)/python benchmarks/fills.py benchmarks/results/fills.md
	$(BIN)/python benchmarks/disk.py benchmarks/results/disk.md
	$(BIN)/python benchmarks/sums.py benchmarks/results/sums.md
	$(BIN)/python benchmarks/models.py benchmarks/results/models.md
	$(BIN)/python benchmarks/shards.py benchmarks/results/shards.md
	$(BIN)/python benchmarks/flax_starts.py benchmarks/results/flax.md
	for backend in jax tensorflow torch; do \
	  KERAS_BACKEND=$$backend $(BIN)/python benchmarks/keras_models.py benchmarks/results/keras_models.md || exit 1; \
	done

bench-gluon: $(GLUON)/ready
	$(GLUON)/bin/python benchmarks/gluon_models.py benchmarks/results/gluon_models.md

clean:
	rm -rf $(VENV) $(GLUON) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
