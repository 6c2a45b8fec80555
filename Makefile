# `make demo` and `make test` set up all they need in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test full-size lint
demo: $(VENV)/installed
	$(BIN)/python tools/demo.py demo

# one thread a process: processes whose threads wait for each other on shared cores are tenfold slower
test: $(VENV)/installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

# what takes minutes: the recipes on real images, where data/ has them, all counts, kills at every moment
full-size: $(VENV)/installed
	$(BIN)/python -m pytest -m full_size

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --only-binary=:all: -c constraints.txt -e '.[test]'
	touch $@
