# Each target is one command that also works by hand in the environment: . .venv/bin/activate
PYTHON ?= python3
VENV ?= .venv
DATA ?=
SHARDS ?=
ARCH ?= resnet101
RECIPE ?= fast
ARGS ?=

# The index torch comes from: what is given, else what the environment was built with.
TORCH_INDEX_USED := $(shell cat "$(VENV)/torch-index.txt" 2>/dev/null)
TORCH_INDEX ?= $(TORCH_INDEX_USED)

PY := "$(VENV)/bin/python"
PIP := $(PY) -m pip --disable-pip-version-check --no-input
# -qq: errors in full, but no progress and no warnings about indexes.
INSTALL := $(PIP) install -qq
STAMP := $(VENV)/set-up-complete
CODE := shards preprocess loaders train bench tests
# Each worker imports torch and DALI (0.8 GB), so not one for each of 64 cores. For a debugger: ARGS="-n 0"
PYTEST := $(PY) -m pytest -n logical --maxprocesses 8

DEMO := data/demo
DEMO_SHARDS := data/demo-shards
DEMO_RUN := runs/demo

# Paths reach the commands through the shell's own quoting, so they may hold spaces. Empty ones are
# left out, and the command's own default applies: HYPHAE_* variables, then local.toml.
export DATA SHARDS

# `shards`, `train`, `bench` are folders too: without this make calls them up to date.
.PHONY: help setup demo shards train bench records test test-all test-gpu gpu-check lint format types check doctor clean
.DEFAULT_GOAL := help

help:  ## this list
	@echo "usage: make TARGET [VARIABLE=VALUE ...]"
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo "variables, with their values now:"
	@echo "  DATA='$$DATA' SHARDS='$$SHARDS'  (empty: HYPHAE_DATA_DIR, HYPHAE_SHARDS_DIR, else local.toml)"
	@echo "  ARCH='$(ARCH)' RECIPE='$(RECIPE)' ARGS='$(ARGS)'  (ARGS: more options for the command)"
	@echo "  PYTHON='$(PYTHON)' VENV='$(VENV)' TORCH_INDEX='$(TORCH_INDEX)'  (TORCH_INDEX: where pip gets torch)"

setup: $(STAMP)  ## build the environment with everything; again: nothing to do
	@echo "environment: $(VENV)   to enter it: . $(VENV)/bin/activate"

demo: $(DEMO_SHARDS)/manifest.json  ## all of it on drawn mushrooms in minutes; replaces runs/demo
	rm -rf $(DEMO_RUN)
	$(PY) -m train --arch resnet18 --recipe baseline --shards $(DEMO_SHARDS) \
	    --image-size 96 --batch-size 32 --epochs 30 --out $(DEMO_RUN)
	$(PY) -m train.evaluate $(DEMO_RUN)/best.pt
	$(PY) -m bench loaders --shards $(DEMO_SHARDS)
	@echo
	@echo "photographs (drawn)  $(DEMO)"
	@echo "shards               $(DEMO_SHARDS)"
	@echo "run                  $(DEMO_RUN): summary.json, metrics, checkpoints"
	@echo "curves               $(VENV)/bin/tensorboard --logdir $(DEMO_RUN)"
	@echo "environment          . $(VENV)/bin/activate"

# Both files are written last, so they stand for a complete folder; the rest of a killed one goes first.
$(DEMO)/.complete: preprocess/demo_data.py | $(STAMP)
	rm -rf $(DEMO)
	$(PY) -m preprocess demo-data $(DEMO)
	@touch $@

$(DEMO_SHARDS)/manifest.json: $(DEMO)/.complete shards/format.py
	rm -rf $(DEMO_SHARDS)
	$(PY) -m preprocess $(DEMO) --out $(DEMO_SHARDS)

shards: $(STAMP)  ## pack the photographs of DATA= into SHARDS=
	$(PY) -m preprocess $${DATA:+"$$DATA"} $${SHARDS:+--out "$$SHARDS"} $(ARGS)

train: $(STAMP)  ## train ARCH= with RECIPE= on SHARDS=
	$(PY) -m train --arch $(ARCH) --recipe $(RECIPE) $${SHARDS:+--shards "$$SHARDS"} $(ARGS)

bench: $(STAMP)  ## measure this machine and show the published table beside it
	$${SHARDS:+env HYPHAE_SHARDS_DIR="$$SHARDS"} $(PY) -m bench $(ARGS)

records: $(STAMP)  ## measure every figure of the documents anew, on a quiet machine, and publish it
	$(PY) -m bench records $(ARGS)
	$(PY) -m bench records --publish $(ARGS)

doctor: $(STAMP)  ## what was found on this machine, and how to mend what is missing
	@$(PY) -m bench doctor

# --- development ------------------------------------------------------------------------------------
test: $(STAMP)  ## the fast tests
	$(PYTEST) $(ARGS)

test-all: $(STAMP)  ## every test that needs no GPU
	$(PYTEST) -m "not gpu and not speed" $(ARGS)
	$(PY) -m pytest -m speed $(ARGS)

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(PY) -m pytest -m gpu $(ARGS)

gpu-check: $(STAMP)  ## the GPU tests, then DALI beside OpenCV on the GPU: one file for a bug report
	$(PY) -m bench gpu-check $(ARGS)

lint: $(STAMP)  ## report what ruff finds
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP)  ## rewrite the code as ruff would have it
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

types: $(STAMP)  ## mypy, strict
	$(PY) -m mypy

check: lint types test  ## what CI asks for before a change goes in

clean:  ## remove caches and build leftovers; never data, runs or the environment
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment --------------------------------------------------------------------------------
# The stamp is made last, so a killed set-up goes on where it stopped.
ifneq ($(TORCH_INDEX),$(TORCH_INDEX_USED))
.PHONY: $(STAMP)  # another build of torch is wanted
endif

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@case "$(TORCH_INDEX)-$$(uname -s)" in \
	    -Linux) size="about 8 GB (torch with CUDA, as PyPI serves it for Linux)" ;; \
	    *) size="1 to 8 GB (by the build of torch)" ;; \
	esac; \
	echo "set-up of $(VENV): $$size, 3 to 20 minutes by the speed of the connection"
	@$(PIP) --version >/dev/null 2>&1 || { \
	    $(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	        echo "error: $(PYTHON) is no Python >= 3.10 with venv and ensurepip. On Debian or Ubuntu:" \
	            "apt install python3-venv. Another Python: make setup PYTHON=/path/to/python3.11" >&2; \
	        exit 1; \
	    }; \
	    echo "1/4 environment with $$($(PYTHON) --version)"; \
	    $(PYTHON) -m venv "$(VENV)"; \
	}
	@echo "2/4 torch, the largest part"
	@set -e; cp constraints.txt "$(VENV)/constraints.txt"; \
	if [ "$(TORCH_INDEX)" != "$(TORCH_INDEX_USED)" ]; then \
	    $(PIP) uninstall --quiet --yes torch torchvision triton 2>/dev/null; \
	fi; \
	if [ -n "$(TORCH_INDEX)" ]; then \
	    grep -vE '^(torch|torchvision|triton)==' constraints.txt >"$(VENV)/constraints.txt"; \
	    $(INSTALL) --index-url "$(TORCH_INDEX)" torch torchvision; \
	else \
	    $(INSTALL) -c "$(VENV)/constraints.txt" torch torchvision; \
	fi; \
	echo "$(TORCH_INDEX)" >"$(VENV)/torch-index.txt"
	@echo "3/4 everything else"
	@$(INSTALL) -c "$(VENV)/constraints.txt" -e ".[dev]"
	@echo "4/4 Pillow-SIMD, built here"
	@$(PILLOW_SIMD)
	@touch "$@"

# Pillow-SIMD fills the same folder PIL as pillow, which torchvision's metadata ask for: so it goes last.
# The wheel is built before anything is replaced, and pillow's own extension modules, which do not fit
# it, go away with the folder. pip may not take the wheel from its cache: CC is no part of its key.
PILLOW_WORKS := $(PY) -c 'from PIL import Image; Image.new("RGB", (9, 9)).resize((4, 4), Image.Resampling.BICUBIC)'
define PILLOW_SIMD
pin=$$(sed -n 's/^pillow-simd==//p' constraints.txt); log="$(VENV)/pillow-simd.log"; wheels="$(VENV)/pillow-simd"; \
if ! grep -qw avx2 /proc/cpuinfo 2>/dev/null; then \
    why="it needs Linux on an x86-64 CPU with AVX2"; \
elif $(PILLOW_WORKS) 2>/dev/null && [ "$$($(PY) -c 'import PIL; print(PIL.__version__)')" = "$$pin" ]; then \
    exit 0; \
elif rm -rf "$$wheels" && CC="cc -mavx2" $(PIP) wheel --no-deps --no-cache-dir --no-binary pillow-simd \
        --wheel-dir "$$wheels" "pillow-simd==$$pin" >"$$log" 2>&1 \
    && $(PY) -c 'import shutil, sysconfig; shutil.rmtree(sysconfig.get_path("platlib") + "/PIL", ignore_errors=True)' \
    && $(PIP) install --no-deps --force-reinstall "$$wheels"/*.whl >>"$$log" 2>&1 \
    && $(PILLOW_WORKS) 2>>"$$log"; then \
    rm -rf "$$wheels"; exit 0; \
else \
    why="it could not be built (wants a C compiler, libjpeg and zlib headers; see $$log)"; \
fi; \
echo "    no Pillow-SIMD: $$why. Going on with pillow; packing takes about twice as long."; \
$(PILLOW_WORKS) 2>/dev/null || { \
    $(PIP) uninstall --quiet --yes pillow-simd 2>/dev/null; \
    $(INSTALL) --no-deps --force-reinstall -c "$(VENV)/constraints.txt" pillow && $(PILLOW_WORKS); \
}
endef
