# Two commands are all that a newcomer needs: `make demo` and `make test`. Both set up what they use.
PYTHON ?= python3
FUZZ_SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.PHONY: demo test test-all check unit faults faults-hub live bench fuzz golden gpu-carry test-gpu clean lock

# Ctrl-C ends it with 130.
demo: $(VENV)/.ready ## set up everything, and serve the model that comes with aimind
	@$(BIN)/aimind serve demo || [ $$? -eq 130 ]

test: check unit faults live ## set up everything, and run all checks

test-all: export AIMIND_TEST_ALL = 1
test-all: test ## the same, and what takes minutes: llama-cpp-python, all of vox-box, more starts of vLLM

check: $(VENV)/.ready ## format, lint, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.ready ## all tests but those that start real backends, and the faults
	$(BIN)/pytest -m "not live" --ignore tests/faults -n 2 --dist loadgroup

faults: $(VENV)/.ready ## do to running programs what can go wrong; AIMIND_WRITE_FAULTS=1 writes docs/faults.md
	$(BIN)/pytest tests/faults -n 2

faults-hub: $(VENV)/.ready ## the same of downloads alone
	$(BIN)/pytest tests/faults/test_hubs.py -n 2

live: $(VENV)/.ready ## real backends on real models: installs them first
	$(BIN)/pytest -m live --ignore tests/faults -n 2 --dist loadfile

bench: $(VENV)/.ready ## print the figures of benchmarks/
	for script in benchmarks/*.py; do echo "== $$script"; PYTHONPATH=. $(BIN)/python $$script || exit 1; done

fuzz: $(VENV)-fuzz/.ready ## throw bytes at each reader of headers, FUZZ_SECONDS long
	for reader in gguf safetensors config; do echo "== $$reader"; $(VENV)-fuzz/bin/python -m fuzz.readers $$reader \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 || exit 1; done

golden: $(VENV)/.ready ## write the plans of tests/golden and the screens of tests/screens again, and docs/backends.md
	AIMIND_WRITE_GOLDEN=1 $(BIN)/pytest tests/test_golden.py tests/test_golden_ranks.py tests/test_backends_document.py \
	    tests/screens

gpu-carry: $(VENV)/.ready ## bring what test-gpu needs on a machine without a network into .gpu/carried
	$(BIN)/python -m scripts.gpu.carry $(GPU_OPTIONS)

test-gpu: .gpu/site ## on an NVIDIA GPU: build llama.cpp, and compare plans with what the driver counts
	PYTHONPATH=.gpu/site $(PYTHON) -m scripts.gpu $(GPU_OPTIONS)

# No environment of its own: what is carried goes before what this Python has.
.gpu/site: .gpu/carried
	$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target $@ .gpu/carried/wheels/*.whl
	touch $@

.gpu/carried:
	@echo "hint: make gpu-carry first, where there is a network, and bring .gpu/carried here" && exit 1

lock: $(UV) ## choose the pins again
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
	    --python-version 3.11 --group dev pyproject.toml -o requirements/dev.txt
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
	    --python-version 3.11 --group fuzz pyproject.toml -o requirements/fuzz.txt -c requirements/dev.txt

clean: ## remove what was made here
	rm -rf $(VENV) $(VENV)-fuzz .uv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
	    .cache .gpu

$(VENV)/.ready: pyproject.toml requirements/dev.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

$(VENV)-fuzz/.ready: requirements/fuzz.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)-fuzz
	$(UV) pip sync --quiet --python $(VENV)-fuzz/bin/python --require-hashes requirements/fuzz.txt
	touch $@

# uv, where the machine has none: from the package index, in a folder of its own.
.uv/bin/uv:
	$(PYTHON) -m venv .uv || { rm -rf .uv; echo "hint: Debian's Python needs the package python3-venv, or install uv"; exit 1; }
	.uv/bin/pip install --quiet --disable-pip-version-check uv
