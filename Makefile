# `make demo` and `make test` set up all they need in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV ?= .venv
KILLS ?= 20
BIN := $(VENV)/bin

.PHONY: demo test full-size soak lint
demo: $(VENV)/installed
	$(BIN)/python tools/demo.py demo

# one thread a process: processes whose threads wait for each other on shared cores are tenfold slower
test: $(VENV)/installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

# the tests that are too slow for `make test`, one after the other; CONTRIBUTING.md says what they need. The longest run
# two programs, each for at most 900 seconds (TIME_LIMIT in tests/conftest.py)
full-size: $(VENV)/installed
	$(BIN)/python -m pytest -m full_size --timeout 1800 --durations=0 --durations-min=1

# both mini models are killed and resumed KILLS times; an error ends it if a result differs from an undisturbed run's
soak: $(VENV)/installed | data/mini/coco data/mini/ade20k
	$(BIN)/python tools/soak.py configs/mini/mask_rcnn_mambaout_mini.py work_dirs/soak/mask_rcnn --kills $(KILLS) \
		--cfg-options train_cfg.max_epochs=6 train_cfg.val_interval=3 train_dataloader.dataset.indices=8 \
		val_dataloader.dataset.indices=2 default_hooks.checkpoint.by_epoch=False default_hooks.checkpoint.interval=3
	$(BIN)/python tools/soak.py configs/mini/upernet_mambaout_mini.py work_dirs/soak/upernet --kills $(KILLS) \
		--cfg-options train_cfg.max_iters=12 train_cfg.val_interval=6 val_dataloader.dataset.indices=2 \
		default_hooks.checkpoint.interval=3

data/mini/%: | $(VENV)/installed
	$(BIN)/python tools/make_mini_dataset.py $* $@

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --only-binary=:all: -c constraints.txt -e '.[test]'
	touch $@
