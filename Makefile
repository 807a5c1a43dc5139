# `make` or `make help` lists the targets. Every target sets up .venv first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LIPBENCH := $(BIN)/python -m lipbench
READY := $(VENV)/.ready

SUITE ?= digits,digits08
SEEDS ?= 0
RESULTS ?= results/runs
RUN ?= $(RESULTS)/digits08/hkr_cnn/default/0
DATA ?= mnist
MODEL ?=
CHECKPOINT ?=
DATASET ?= digits
LAUNCHER ?=
SWEEPER ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install benchmark test test-extra test-slurm lint docs figures report sweep status evaluate export reproduce data forget bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo "  Variables: SUITE=$(SUITE) SEEDS=$(SEEDS) RESULTS=$(RESULTS) RUN=$(RUN) DATA=$(DATA) ARGS=\"\" (options of the command)"

install: $(READY) ## Create .venv with exact versions (constraints.txt)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

benchmark: $(READY) ## Train, attack and certify SUITE, then the report (default: both digits)
	@status=0; $(LIPBENCH) run suite=$(SUITE) seed=$(SEEDS) results=$(RESULTS) $(ARGS) || status=$$?; \
	test $$status -ne 130 || exit 130; \
	$(LIPBENCH) report results=$(RESULTS) && exit $$status

sweep: $(READY) ## Any sweep: SUITE=mnist08/hkr_mlp SEEDS=0,1,2 ARGS="loss.margin=1,2" LAUNCHER=joblib (docs/sweeps.md)
	$(LIPBENCH) run suite=$(SUITE) seed=$(SEEDS) results=$(RESULTS) \
	$(if $(LAUNCHER),hydra/launcher=$(LAUNCHER)) $(if $(SWEEPER),hydra/sweeper=$(SWEEPER)) $(ARGS)

status: $(READY) ## What is finished, running, failed, stopped in RESULTS; of a sweep: ARGS="suite=mnist08 seed=0,1,2"
	$(LIPBENCH) status results=$(RESULTS) $(ARGS)

report: $(READY) ## Leaderboard, figures and page of RESULTS; ARGS="compare=results/reference"
	$(LIPBENCH) report results=$(RESULTS) $(ARGS)

figures: report ## The figures of RESULTS (they are part of the report)

evaluate: $(READY) ## Your own model: MODEL=file.py:build CHECKPOINT=weights.safetensors DATASET=digits
	$(LIPBENCH) evaluate $(if $(MODEL),"model=$(MODEL)") $(if $(CHECKPOINT),"checkpoint=$(CHECKPOINT)") \
	dataset=$(DATASET) "results=$(RESULTS)" $(ARGS)

export: $(READY) ## ONNX and torch.export files of RUN, the certificate inside
	$(LIPBENCH) export "run=$(RUN)" $(ARGS)

reproduce: $(READY) ## Make RUN again from its own files and compare, table by table
	$(LIPBENCH) reproduce "run=$(RUN)" $(ARGS)

forget: $(READY) ## Remove RUN
	$(LIPBENCH) forget "$(RUN)"

data: $(READY) ## Get, check or draw DATA (mnist, cifar10, cifar100, cifar10_jpeg, celeba, celeba_drawn) in LIPBENCH_DATA or the cache
	$(LIPBENCH) data $(DATA) $(ARGS)

test: $(READY) ## Lint, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 8 --dist worksteal

docs: ## The website in site/, warnings are errors (an environment of its own, .venv-docs)
	@test -x .venv-docs/bin/mkdocs || { $(PYTHON) -m venv .venv-docs && .venv-docs/bin/python -m pip install --quiet --requirement docs/requirements.txt; }
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "Written: site/index.html. With search: $(PYTHON) -m http.server --directory site"

test-extra: $(READY) docs ## The website, and sweeps on joblib, submitit, Ray and Optuna themselves, as far as they are installed
	$(BIN)/python -m pytest -q -m extra tests/commands/test_engines.py

test-slurm: $(READY) ## A sweep on a Slurm of one node, which is installed and started for it (root, Debian)
	bash tests/slurm/run.sh $(BIN)/python

lint: $(READY) ## Fix what ruff can fix, write docs/options.md, then check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/options.py
	$(BIN)/mypy

bench: $(READY) ## Compare the attacks with foolbox's and torchattacks' (and adv-lib's where it is installed)
	$(BIN)/python benchmarks/attacks.py $(RESULTS)/digits08/hkr_mlp $(RESULTS)/digits08/hkr_cnn $(RESULTS)/digits08/plain_cnn \
	  $$($(BIN)/python -c "import adv_lib" 2>/dev/null || echo --skip adv_lib)

clean: ## Remove caches and .venv; results stay
	rm -rf $(VENV) .venv-docs site build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
