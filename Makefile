# Every target does its own set-up: Linux, Python >= 3.11, make and git are all it needs.
# PYTHON=python3.12 make test     another interpreter
# VENV=/elsewhere make bench      another place for the virtual environment

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= results/local

.PHONY: help accuracy accuracy-quick bench bench-field test test-cpus lint docs gpu regress check train-demo train-compare clean

bench: $(STAMP)  ## measure soft and performer beside softmax: table, records, plot
	@mkdir -p $(OUT)
	$(BIN)/softbench latency --attn soft,performer --out $(OUT)/bench.jsonl --plot $(OUT)/bench.png

# One process a core and one thread each: threads that wait for each other stand still while another process computes.
TESTS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --benchmark-skip -n auto --dist worksteal
test: $(STAMP)  ## the whole test suite, and at its end what times something, with nothing beside it
	$(TESTS) -m "not quiet" --durations=15
	$(BIN)/python -m pytest --benchmark-skip -m quiet

test-cpus: $(STAMP)  ## the numerical tests as three kinds of CPU compute them, as far as this one can
	PYTHON="$(BIN)/python" ./tests/cpus.sh

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

# The pages link to each other as they lie in the repository, so the site is built from a copy that keeps its folders.
PAGES := README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff LICENSE docs results/README.md results/*.svg results/field.html
SITE_SOURCE := build/site
docs: $(VENV)/.installed-docs  ## the site, site/index.html, from the pages and the public docstrings; a dead link fails
	rm -rf $(SITE_SOURCE) site && mkdir -p $(SITE_SOURCE) && cp -r --parents $(PAGES) $(SITE_SOURCE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

regress: $(STAMP)  ## the benchmarks that hold our claims about speed, with pytest-benchmark
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

BASE ?= origin/main
check: $(STAMP)  ## this checkout against the revision BASE: exact quantities, then times in interleaved rounds
	$(BIN)/softbench check --base $(BASE)

gpu:  ## GPU tests, then GPU benchmarks; runs from the checkout, with the virtual environment if there is one
	PYTHON="$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON))" OUT="$(OUT)" ./tests/gpu.sh

train-demo: $(STAMP)  ## train soft-tiny on scikit-learn's digits from nothing: records, summary, checkpoints, curves
	$(BIN)/softbench train-imagenet --arch soft-tiny --data digits --out $(OUT)/train/soft-tiny
	$(BIN)/softbench plot $(OUT)/train/soft-tiny/records.jsonl --out $(OUT)/train/soft-tiny/curves.svg
	$(BIN)/python -c 'import softbench; f = softbench.load("$(OUT)/train/soft-tiny/records.jsonl"); \
	  top1 = f[(f.measure == "train") & (f.quantity == "top1")].sort_values("epoch").value.iloc[-1]; \
	  raise SystemExit(f"top-1 {top1:.1%} is below 98.5 %" if top1 < 0.985 else None)'

PEERS ?= soft linformer performer nystromformer softmax
train-compare: $(STAMP)  ## the same with each attention of the paper's Table 2, and the last epoch of each in one table
	for attn in $(PEERS); do \
	  $(BIN)/softbench train-imagenet --arch $$attn-tiny --data digits --out $(OUT)/train/$$attn-tiny || exit; done
	$(BIN)/softbench show $(PEERS:%=$(OUT)/train/%-tiny/records.jsonl) --where epoch=14
	$(BIN)/softbench plot $(PEERS:%=$(OUT)/train/%-tiny/records.jsonl) --out $(OUT)/train/compare.svg

TASKS ?= mqar:pairs=8,mqar:pairs=32:tokens=256,forgetting
LEARNERS ?= soft,soft_norm,performer,linear,nystromformer,linformer,skyformer,cosformer,agent,window,gaussian
ACCURACY = $(BIN)/softbench accuracy --jobs $(JOBS) --resume
JOBS ?= 2
accuracy: $(STAMP)  ## what a dozen attentions cost in accuracy, with five seeds; goes on where it was left
	@mkdir -p $(OUT)
	$(ACCURACY) --task $(TASKS) --attn $(LEARNERS) --out $(OUT)/accuracy.jsonl --plot $(OUT)/accuracy.svg $(SOME_FAILED)

accuracy-quick: $(STAMP)  ## the same of recall with four attentions and three seeds
	@mkdir -p $(OUT)
	$(ACCURACY) --task mqar --attn soft,performer,linear --seeds 3 --epochs 1 --out $(OUT)/accuracy-quick.jsonl \
	  --plot $(OUT)/accuracy-quick.svg $(SOME_FAILED)

FIELD ?= soft,performer,nystromformer,linformer,linear,efficient,cosformer,agent,skyformer,spatial_reduction,xca,window
FIELD_AT ?= --mode forward --heads 4 --max-tokens 8k
SOME_FAILED = || [ $$? -eq 5 ]  # a case that fails is a row of the page
bench-field: $(STAMP)  ## from which N on a dozen attentions win and how they grow, on one page; under 15 minutes on two cores
	@mkdir -p $(OUT)
	$(BIN)/softbench crossover --attn $(FIELD) $(FIELD_AT) --budget 600 --resume --out $(OUT)/field-crossover.jsonl \
	  --plot $(OUT)/field-crossover.svg $(SOME_FAILED)
	$(BIN)/softbench scaling --attn softmax,$(FIELD) $(FIELD_AT) --min-tokens 128 --rep 60 --timeout 20 --resume \
	  --out $(OUT)/field-scaling.jsonl $(SOME_FAILED)
	$(BIN)/softbench report $(OUT)/field-crossover.jsonl $(OUT)/field-scaling.jsonl --out $(OUT)/field.html

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "softbench needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

clean:  ## remove the virtual environment, the site and local results
	rm -rf $(VENV) build/site site results/local

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 15
