# Everything a newcomer types. `make help` lists it.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

# OpenMP's spinning barriers slow small matrix products tenfold as soon as anything else runs on the machine.
export OMP_WAIT_POLICY ?= passive

.PHONY: help demo test check install gpu lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(BIN)/.installed  ## install, then train, evaluate and report on the bundled data (minutes on two cores)
	@$(BIN)/python train.py experiment=demo

test: $(BIN)/.installed  ## install, then run the tests
	@$(BIN)/python -m pytest -q $(ARGS)

check: $(BIN)/.installed  ## lint, formatting and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

install: $(BIN)/.installed  ## make the environment in .venv/

# The marker is newer than the lock file exactly when the environment is what the lock file says.
$(BIN)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "em needs Python 3.11 to 3.13: make PYTHON=python3.12 install" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip sync --quiet requirements.lock
	@touch $@

gpu: $(BIN)/.installed requirements-gpu.lock  ## add what only GPUs use: bitsandbytes (QLoRA, 8-bit AdamW), Liger kernels
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet -r requirements-gpu.lock

COMPILE = VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml

lock: $(BIN)/.installed  ## resolve the newest versions for Python 3.11 to 3.13 into the lock files
	@$(COMPILE) --upgrade -o requirements.lock
	@$(COMPILE) --constraint requirements.lock --extra gpu -o requirements-gpu.lock

clean:  ## remove the environment and the caches of the tools (runs and trained models stay)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
