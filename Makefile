# Everything a developer or CI does. `make` alone lists the targets.
# Builds and downloads are kept in $(CACHE), outside the tree; an empty cache only costs time.

CACHE ?= $(or $(FINETUNE_CACHE),$(HOME)/.cache/finetune-operator)
UV_VERSION := 0.13.9
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
BIN := .venv/bin
# -P keeps the repository root off the import path, where `operator/` would shadow a standard module.
PYTHON := $(BIN)/python -P
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header pyproject.toml
PYTEST := $(BIN)/pytest
# Processes that share the tests of a suite. Each imports torch for itself (1.2 GB), and has a cluster of
# its own where there is one.
WORKERS ?= 2

export FINETUNE_CACHE := $(CACHE)
export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types unit runs cluster chart e2e invariant matrix parity chaos gpu bounds generate \
	kernels numerics locks bench bench-learning bench-checkpoints bench-trainer bench-gpu \
	bench-gpu-training cluster-up cluster-down clean

##@ Use

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z][a-z0-9-]*:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/ready ## fine-tune a real model on a local cluster, from apply to answers
	PYTHONPATH=tests $(PYTHON) -m demo $(ARGS)

cluster-up: .venv/ready ## start a local control plane with a process node and an S3 server
	PYTHONPATH=tests $(PYTHON) -m devcluster up $(ARGS)

cluster-down: .venv/ready ## stop them
	PYTHONPATH=tests $(PYTHON) -m devcluster down

##@ Check

test: check runs cluster chart e2e invariant ## every test that needs no root and no GPU

check: lint types unit ## lint, types and unit tests

lint: .venv/ready ## style, layers, spelling, dependencies, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/deptry crds operator trainer_image kernels
	$(BIN)/yamllint --strict .
	$(PYTHON) -m finetune_api --check
	$(PYTHON) helm/generate.py --check

types: .venv/ready ## mypy, strict
	$(BIN)/mypy

# Triton's interpreter is on for a whole process, so the kernels have one of their own.
unit: .venv/ready ## unit tests
	OMP_NUM_THREADS=1 $(PYTEST) tests/unit -q -n $(WORKERS) --dist loadfile
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(PYTEST) tests/kernels -q -n $(WORKERS) --dist loadfile

runs: .venv/ready ## whole runs of the trainer on tiny models, and its storage under attack
	OMP_NUM_THREADS=1 $(PYTEST) tests/runs -q -n $(WORKERS) --dist loadfile
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(PYTEST) tests/kernel_runs -q -n $(WORKERS) --dist loadfile

cluster: .venv/ready ## tests against a real API server
	$(PYTEST) tests/cluster -q -n $(WORKERS) --dist loadfile

chart: .venv/ready ## tests of the Helm chart
	$(PYTEST) tests/chart -q

# Files go out in the order of tests/e2e/conftest.py: xdist's own, most tests first, has the two longest last.
e2e: .venv/ready ## jobs from apply to the adapter in S3
	$(PYTEST) tests/e2e -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

invariant: .venv/ready ## losses, curves and learning that must not change
	OMP_NUM_THREADS=1 $(PYTEST) tests/invariant -q -n $(WORKERS) --dist loadfile

matrix: .venv/ready ## run every cell of the compatibility table
	PYTHONPATH=tests $(PYTHON) -m invariant.matrix $(ARGS)

parity: .venv/ready ## compare every method with the library's own trainer, step by step
	PYTHONPATH=tests $(PYTHON) -m invariant.parity $(ARGS)

chaos: .venv/ready ## kill parts of a running job 20 times, and compare its adapter to the bit
	PYTHONPATH=tests $(PYTHON) -m chaos $(ARGS)

gpu: .venv/ready ## every kernel on a real GPU, against float64; skipped without one
	$(PYTEST) tests/gpu -q $(ARGS)

bounds: .venv/ready ## unit tests on the oldest and newest Python and dependencies (no torch)
	tests/bounds.sh "$(UV)" "$(CACHE)"

bench: .venv/ready ## measure the control plane against plain Jobs; prints the ratio
	PYTHONPATH=tests $(PYTHON) benchmarks/control_plane.py $(ARGS)

bench-learning: .venv/ready ## one run of every method on SmolLM2: held-out figures before and after
	PYTHONPATH=tests $(PYTHON) benchmarks/learning.py $(ARGS)

bench-trainer: .venv/ready ## ours against stock TRL on SmolLM2, at most 25 minutes: speed, memory, first step
	PYTHONPATH=tests:benchmarks $(PYTHON) -m trainer $(ARGS)

bench-gpu: .venv/ready ## each kernel against PyTorch, torch.compile and Liger, on a GPU
	PYTHONPATH=tests:benchmarks $(PYTHON) -m gpu_ops $(ARGS)

bench-gpu-training: .venv/ready ## whole steps of 1B and 8B models against stock PEFT and Liger, on a GPU
	PYTHONPATH=tests:benchmarks $(PYTHON) -m gpu_training $(ARGS)

bench-checkpoints: .venv/ready ## what checkpoints cost the demo: waiting, bytes, and the way back after a kill
	PYTHONPATH=tests $(PYTHON) benchmarks/checkpoints.py $(ARGS)

##@ Maintain

generate: .venv/ready ## rewrite every generated file
	$(PYTHON) -m finetune_api
	$(PYTHON) helm/generate.py

kernels: .venv/ready ## compile every kernel for every chip, and rewrite the table of what they take
	$(PYTHON) -m finetune_kernels.ahead_of_time $(ARGS)

numerics: .venv/ready ## measure every operation's error against float64, and rewrite the table of them
	PYTHONPATH=tests $(PYTHON) -m numerics $(ARGS)

locks: $(UV) ## resolve the exact versions of every role anew
	$(COMPILE) --all-extras --group lint --group test -o locks/dev.txt
	$(COMPILE) --extra operator -c locks/dev.txt -o locks/operator.txt
	$(COMPILE) --extra trainer -c locks/dev.txt -o locks/trainer.txt
	$(COMPILE) --extra operator --extra cli --group unit -c locks/dev.txt -o locks/unit.txt
	echo 'hatchling>=1.27' | $(UV) pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header -c locks/dev.txt - -o locks/build.txt
	$(COMPILE) --extra operator --extra cli --group unit --resolution lowest-direct -o locks/lowest.txt

clean: ## remove what was built in the tree
	rm -rf .venv .demo .mypy_cache .ruff_cache .pytest_cache

$(UV):
	python3 -m venv $(CACHE)/uv-$(UV_VERSION)
	$(CACHE)/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/ready: $(UV) pyproject.toml locks/dev.txt
	@echo "Installing the locked packages into .venv (6 GB; minutes the first time)"
	test -x $(BIN)/python || $(UV) venv --quiet --python '>=3.11,<3.14' .venv
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes --only-binary :all: \
		--no-binary deepspeed -r locks/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
