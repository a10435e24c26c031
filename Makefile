# Every target creates the virtual environment if needed, and installs again when pyproject.toml has changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.PHONY: help quickstart reproduce test test-slow test-matrix lint

help:
	@echo "make quickstart   train a small GenCLIP and test it on categories it has not seen: about ten minutes"
	@echo "make reproduce    run the paper's protocols: needs the datasets, CLIP's weights and a GPU"
	@echo "make test         run the fast tests and measure their coverage"
	@echo "make test-slow    run the slow tests"
	@echo "make test-matrix  run some tests with other versions of Python, torch and open_clip: half an hour, 8 GB of disk"
	@echo "make lint         run ruff and mypy"
	@echo "Variables: PYTHON=$(PYTHON) (makes the environment), VENV=$(VENV) (where it is)"

$(BASE): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): minutes the first time"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(DEV): $(BASE)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# Without the warnings of timm and anomalib on their own imports.
quickstart: $(BASE)
	PYTHONWARNINGS=ignore::FutureWarning $(BIN)/python examples/quickstart.py

reproduce: $(BASE)
	$(BIN)/genclip reproduce

# A worker per core, each with one thread: torch is slow with more threads than cores.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --cov --cov-report=term

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow

# Creates its own environments, one at a time.
test-matrix:
	$(PYTHON) tests/helpers/matrix.py

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
