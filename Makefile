# Every target does its own set-up: Linux, Python >= 3.11, make and git are all it needs.
# PYTHON=python3.12 make test     another interpreter
# VENV=/elsewhere make bench      another place for the virtual environment

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= results/local

.PHONY: bench test lint gpu regress clean

bench: $(STAMP)  ## measure soft and performer beside softmax: table, records, plot
	@mkdir -p $(OUT)
	$(BIN)/softbench latency --attn soft,performer --out $(OUT)/bench.jsonl --plot $(OUT)/bench.png

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest --benchmark-skip

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

regress: $(STAMP)  ## the benchmarks that hold our claims about speed, with pytest-benchmark
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

gpu:  ## GPU tests, then GPU benchmarks; runs from the checkout, with the virtual environment if there is one
	PYTHON="$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON))" OUT="$(OUT)" ./tests/gpu.sh

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "softbench needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@

clean:  ## remove the virtual environment and local results
	rm -rf $(VENV) results/local
