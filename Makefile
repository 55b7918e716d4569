# The commands of this project; README and CI use the same words.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Training: `make train DATA=pictures/ RUN=runs/mine`, then `make export plan serve RUN=runs/mine`:
# what is not given is as it was when RUN was trained. `make train` alone is a smoke run of about a
# minute on the bundled pictures. Flags of sr-train fit: TRAIN_FLAGS='--iterations 40000'.
SMALL := tests/data/train_small
SMOKE := --iterations 300 --batch 8 --patch 24 --validation-pictures 2 --evaluate-every 100
RUN ?= runs/$(notdir $(patsubst %/,%,$(or $(DATA),$(SMALL))))
SM ?= 75

.PHONY: help setup demo test check cluster-check lint test-gpu train release ablations export plan serve bench \
	docker-check deploy load soak reliability reliability-short fuzz sbom audit clean force

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What serving on a CPU needs, and nothing else: no torch, no GPU libraries.
$(VENV)/.serve: pyproject.toml constraints.txt $(wildcard setup.py engine/kernels/*.[ch]) | $(BIN)/python
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
	$(BIN)/python -m pytest -n 2 --dist loadfile -q -m "not cluster"

# Ray is 80 MB and 40 packages that nothing else needs.
$(VENV)/.cluster: $(VENV)/.dev
	$(PIP) --editable '.[cluster]'
	@touch $@

cluster-check: $(VENV)/.cluster  ## Start Ray nodes here, lose one, compare with one machine
	$(BIN)/python -m pytest -q -m cluster tests/cluster

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
# What RUN was trained from. Weights that came without it stay as they are.
INPUTS := $(RUN).inputs
before = $(shell sed -n 's/^$(1): //p' $(INPUTS) 2>/dev/null)
ifeq ($(origin DATA),undefined)
DATA := $(or $(call before,data),$(if $(wildcard $(WEIGHTS)),,$(SMALL)))
endif
ifeq ($(origin TRAIN_FLAGS),undefined)
TRAIN_FLAGS := $(or $(call before,flags),$(if $(filter $(SMALL),$(DATA)),$(SMOKE)))
endif

ifneq ($(DATA),)
# Names, sizes and times: a picture that is added, changed or removed is another data set.
PICTURES := $(shell find -L '$(DATA)' -type f -printf '%P %s %T@\n' 2>/dev/null \
  | grep -iE '^.*\.(png|jpe?g|webp|bmp|tiff?) [0-9]+ [0-9.]+$$' | LC_ALL=C sort | sha256sum | head -c 16)
define NOW
data: $(DATA)
flags: $(TRAIN_FLAGS)
pictures: $(PICTURES)
endef
# A run of other inputs is moved aside, finished or not: it cannot be gone on with.
$(INPUTS): export INPUTS_NOW = $(NOW)
$(INPUTS): $(if $(findstring x$(NOW)x,x$(file <$(INPUTS))x),,force)
	@if [ -d $(RUN) ]; then mv $(RUN) $(RUN).$$(date +%Y%m%d-%H%M%S); fi
	@mkdir -p $(@D)
	@printf '%s\n' "$$INPUTS_NOW" > $@

$(WEIGHTS): $(INPUTS) | $(VENV)/.dev
	$(BIN)/sr-train fit --data '$(DATA)' --out $(RUN) $(TRAIN_FLAGS)
endif

$(ONNX): $(WEIGHTS) | $(VENV)/.dev
	$(BIN)/sr-engine export $< --out $(@D) --precision fp32 fp16
	@touch $@

# The plan names the graph that it was built from: the same one again is no reason to build.
$(PLAN): $(ONNX)
	@if grep -qs "$$(cat $(RUN)/onnx/*.rgb24.fp16.onnx | sha256sum | head -c 64)" $@.json; then \
	  echo "$@ is of the same graph"; touch $@; \
	else set -x; $(BIN)/sr-engine build --backend tensorrt_rtx --sm $(SM) --model $(WEIGHTS) --out $@; fi

train: $(WEIGHTS)  ## Train on DATA into RUN; goes on where it was stopped
export: $(ONNX)  ## Write the ONNX files of RUN, checked against PyTorch
plan: $(PLAN)  ## Build the TensorRT for RTX plan of RUN for compute capability SM

release: setup  ## Train the widths that ship on DATA, MINUTES each; scores on BENCHMARKS
	$(BIN)/sr-train release --data '$(DATA)' --minutes $(or $(MINUTES),15) \
	  $(if $(BENCHMARKS),--benchmarks $(BENCHMARKS))

ablations: setup  ## Run the ablations that are missing (hours) and write docs/ablations.md
	$(BIN)/sr-train ablate --data $(or $(DATA),$(SMALL))

# A run that is named, or there already, is brought up to date first; else the shipped models serve.
ifeq ($(origin MODEL),undefined)
CHOSEN := $(if $(filter command environment,$(firstword $(origin RUN)))$(wildcard $(WEIGHTS)),yes)
MODEL := $(if $(CHOSEN),$(WEIGHTS),auto)
endif
serve: $(VENV)/.serve $(if $(CHOSEN),$(PLAN))  ## Start the service on 127.0.0.1:8000, with RUN's weights
	$(BIN)/sr-server --model $(MODEL)

docker-check:  ## Build the images without Docker, run them and post files to them (needs root)
	docker/check.sh

# The image with the weights of RUN, and their hash chain, baked in.
RUNTIME ?= rtx
IMAGE ?= sr-server
deploy: $(ONNX)  ## Build the image sr-server with the weights of RUN and their chain of hashes
	$(PYTHON) docker/deploy.py $(WEIGHTS) $(<D) --runtime $(RUNTIME) --tag $(IMAGE)

load: $(VENV)/.dev  ## Two minutes of more pictures than the service can take
	$(BIN)/python bench/load.py

soak: $(VENV)/.dev  ## 2,000 mixed requests, then 30 minutes of chaos; nothing may grow or get lost
	$(BIN)/python bench/soak.py --requests 2000
	$(BIN)/python bench/soak.py --chaos --seconds 1800

reliability: $(VENV)/.dev  ## Every figure of docs/reliability.md (two hours; goes on where it stopped)
	$(BIN)/python bench/reliability.py; code=$$?; $(BIN)/python bench/reliability.py --table; exit $$code

reliability-short: $(VENV)/.dev  ## The same with small counts in at most 8 minutes; keeps nothing
	$(BIN)/python bench/reliability.py --short

fuzz: $(VENV)/.dev  ## A minute of atheris on each parser of ours
	$(BIN)/python bench/fuzz_parsers.py --seconds 60

sbom: $(VENV)/.dev  ## What is in the serving image: docker/sbom.cdx.json
	$(BIN)/python docker/sbom.py

# --strict: a package that the advisory service does not know is a failure, not a pass.
audit: $(VENV)/.dev  ## Known vulnerabilities of the serving image; needs the advisory service of PyPI
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r docker/requirements.txt

force:

bench: $(VENV)/.serve  ## Prove speed and correctness of the CPU engine at 256x256
	$(BIN)/python bench/fps.py --backend auto --model fast --size 256 --frames 60

clean:  ## Remove what make made
	rm -rf build dist *.egg-info
