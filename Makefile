# The commands of this project; README and CI use the same words.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DATA ?= tests/data/train_small
RUN ?= runs/custom
NAME ?= custom

.PHONY: help setup demo test check lint test-gpu train ablations export plan serve bench load clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What serving on a CPU needs, and nothing else: no torch, no GPU libraries.
$(VENV)/.serve: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

# torch comes first and alone: its exact pin must be settled before anything can ask for a range.
$(VENV)/.dev: $(VENV)/.serve
	$(PIP) torch
	$(PIP) --editable '.[train,rtx,dev]'
	@touch $@

setup: $(VENV)/.dev  ## Make the virtual environment with everything that tests need

demo: $(VENV)/.serve  ## Upscale the bundled clip on this CPU and compare it with its ground truth
	$(BIN)/python -m server.demo

test: setup check  ## Set up, lint and run all tests

check: lint  ## Lint and run all tests in the environment that is there
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-gpu: setup  ## Tests that need a CUDA device; a skipped one fails
	SR_TEST_GPU=1 $(BIN)/python -m pytest -q -m "gpu or trt_gpu" tests/gpu

serve: $(VENV)/.serve  ## Start the service on 127.0.0.1:8000
	$(BIN)/sr-server

bench: $(VENV)/.serve  ## Prove speed and correctness of the CPU engine at 256x256
	$(BIN)/python bench/fps.py --backend onnxruntime --model fast --size 256 --frames 60

clean:  ## Remove what make made
	rm -rf build dist *.egg-info
