# The commands of this project; README and CI use the same words.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Training: `make train DATA=pictures/ RUN=runs/mine`, then `make export plan serve RUN=runs/mine`.
# Without DATA it is a smoke run of about a minute on the bundled pictures.
SMALL := tests/data/train_small
DATA ?= $(SMALL)
RUN ?= runs/$(notdir $(patsubst %/,%,$(DATA)))
SMOKE := --iterations 300 --batch 8 --patch 24 --validation-pictures 2 --evaluate-every 100
TRAIN_FLAGS ?= $(if $(filter $(SMALL),$(DATA)),$(SMOKE))
SM ?= 75

.PHONY: help setup demo test check lint test-gpu train ablations export plan serve bench \
	docker-check deploy load soak reliability clean force

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

# The chain train -> export -> plan -> serve hangs on files: what did not change is not made again.
WEIGHTS := $(RUN)/weights.safetensors
ONNX := $(RUN)/onnx/.done
PLAN := $(RUN)/sm$(SM).plan
PICTURES := $(shell find $(DATA) -type f 2>/dev/null)

# Changes only when the flags do, so that other flags train again.
$(RUN).flags: force
	@mkdir -p $(@D)
	@echo '$(DATA) $(TRAIN_FLAGS)' | cmp -s - $@ || echo '$(DATA) $(TRAIN_FLAGS)' > $@

$(WEIGHTS): $(PICTURES) $(RUN).flags | $(VENV)/.dev
	@if [ -f $@ ]; then mv $(RUN) $(RUN).$$(date +%Y%m%d-%H%M%S); fi
	$(BIN)/sr-train fit --data $(DATA) --out $(RUN) $(TRAIN_FLAGS)

$(ONNX): $(WEIGHTS)
	$(BIN)/sr-engine export $< --out $(@D)
	@touch $@

$(PLAN): $(ONNX)
	$(BIN)/sr-engine build --backend tensorrt_rtx --sm $(SM) --model $(WEIGHTS) --out $@

train: $(WEIGHTS)  ## Train on DATA into RUN; goes on where it was stopped
export: $(ONNX)  ## Write the ONNX files of RUN, checked against PyTorch
plan: $(PLAN)  ## Build the TensorRT for RTX plan of RUN for compute capability SM

ablations: setup  ## Run the ablations that are missing (hours) and write docs/ablations.md
	$(BIN)/sr-train ablate --data $(DATA)

MODEL ?= $(if $(wildcard $(WEIGHTS)),$(WEIGHTS),auto)
serve: $(VENV)/.serve  ## Start the service on 127.0.0.1:8000, with the weights of RUN if there
	$(BIN)/sr-server --model $(MODEL)

docker-check:  ## Build the images without Docker, run them and post files to them (needs root)
	docker/check.sh

# The image with the weights of RUN, and their hash chain, baked in.
RUNTIME ?= rtx
deploy: $(WEIGHTS)  ## Build the image sr-server with the weights of RUN
	mkdir -p build/deploy
	cp $< build/deploy/
	docker build -f docker/server.Dockerfile --build-arg RUNTIME=$(RUNTIME) \
	  --build-arg MODEL=/models/weights.safetensors -t sr-server .

load: $(VENV)/.dev  ## Two minutes of more pictures than the service can take
	$(BIN)/python bench/load.py

soak: $(VENV)/.dev  ## Two minutes of mixed requests; descriptors, threads and memory must not grow
	$(BIN)/python bench/soak.py --seconds 120

reliability: $(VENV)/.dev  ## The longer forms of the fault, fuzz and kill tests
	SR_SCHEMA_CASES=100 $(BIN)/python -m pytest -q tests/reliability
	$(BIN)/python bench/fuzz_media.py --flips 1000 --cuts 200
	$(BIN)/python bench/soak.py --seconds 120 --kills 20

force:

bench: $(VENV)/.serve  ## Prove speed and correctness of the CPU engine at 256x256
	$(BIN)/python bench/fps.py --backend onnxruntime --model fast --size 256 --frames 60

clean:  ## Remove what make made
	rm -rf build dist *.egg-info
