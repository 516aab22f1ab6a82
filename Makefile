# `make pretrain` runs the main job on text that every Python machine carries; `make test` checks the project.
# Both first make .venv. No compiler and no download beyond Python packages is needed.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python

.PHONY: install pretrain finetune cofi qat test test-all lint schema wheels clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[prep,export,dev]'
	touch $@

install: $(VENV)/installed

pretrain: $(VENV)/installed
	$(RUN) -m data_prep --config tiny/docstrings.json
	$(RUN) launch/pretrain.py --config tiny/teacher.json
	$(RUN) launch/pretrain.py --config tiny/one_shot_90.json
	$(RUN) launch/pretrain.py --config tiny/ofa_90.json
	$(RUN) launch/verify.py runs/tiny/ofa_90 --expect-sparsity 0.9

runs/tiny/ofa_90/model/recipe.json:
	$(MAKE) pretrain

finetune: $(VENV)/installed runs/tiny/ofa_90/model/recipe.json
	$(RUN) launch/finetune.py --config tiny/finetune.json --with-teacher
	$(RUN) launch/verify.py runs/tiny/finetune --same-zeros-as runs/tiny/ofa_90

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/pyright

runs/tiny/teacher/model/recipe.json: | $(VENV)/installed
	$(RUN) -m data_prep --config tiny/docstrings.json
	$(RUN) launch/pretrain.py --config tiny/teacher.json

cofi: $(VENV)/installed runs/tiny/teacher/model/recipe.json
	$(RUN) launch/cofi.py --config tiny/cofi.json --with-teacher
	$(RUN) launch/verify.py runs/tiny/cofi

runs/tiny/finetune/model/recipe.json:
	$(MAKE) finetune

qat: $(VENV)/installed runs/tiny/finetune/model/recipe.json
	$(RUN) launch/qat.py --config tiny/qat.json
	$(RUN) launch/verify.py runs/tiny/qat --same-zeros-as runs/tiny/finetune
	$(RUN) launch/export.py runs/tiny/qat --format onnx
	$(RUN) launch/verify.py runs/tiny/qat/onnx

test: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-all: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m ''

schema: $(VENV)/installed
	$(RUN) -c "import json, ofa.config as c; (c.CONFIGS / 'schema.json').write_text(json.dumps(c.schema(), indent=1) + '\n')"

wheels: $(VENV)/installed
	$(RUN) benchmarks/wheels.py

clean:
	rm -rf $(VENV) data runs
