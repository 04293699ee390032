# `make demo` and `make test` do all their own set-up: a .venv, the C++ build, the packages they need.
PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
PY := $(VENV)/bin/python
NATIVE_SOURCES := $(sort $(wildcard csrc/*/*.cpp csrc/*/*.h csrc/cuda/*))

# How long `make fuzz` looks; SEED= repeats a run.
SECONDS ?= 60
SEED ?=

# The interpreter that has PyTorch with CUDA and Triton: `make gpu` uses what it finds there and installs nothing.
GPU_PYTHON ?= python3

# The tool that makes a site of the pages has packages of its own and needs neither the engine nor a compiler.
SITE_TOOLS := $(VENV)/site-tools

.PHONY: demo test lint docs crash heavy stress sanitize fuzz bench gpu clean

$(VENV)/made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rowtide needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check 'setuptools>=77' 'pybind11>=3,<4'
	touch $@

$(VENV)/cli: $(VENV)/made pyproject.toml setup.py $(NATIVE_SOURCES)
	$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[cli]'
	touch $@

$(VENV)/test: $(VENV)/cli
	$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[test]'
	touch $@

$(VENV)/bench: $(VENV)/cli
	$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[bench,peers]'
	touch $@

$(SITE_TOOLS)/made:
	$(PYTHON) -m venv $(SITE_TOOLS)
	$(SITE_TOOLS)/bin/python -m pip install -q --disable-pip-version-check 'zensical>=0.0.73,<0.1' 'mkdocstrings-python>=2,<3'
	touch $@

demo: $(VENV)/cli
	$(PY) -m engine demo

test: $(VENV)/test lint
	$(PY) -m pytest

lint: $(VENV)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(NATIVE_SOURCES) tests/crash/*.c tests/crash/*.h tests/native/*.cpp tests/native/*.h

docs: $(SITE_TOOLS)/made
	$(SITE_TOOLS)/bin/python docs/make_site.py site

crash: $(VENV)/test
	$(PY) -m pytest -m 'heavy or not heavy' tests/crash -s

heavy: $(VENV)/test
	$(PY) -m pytest -m heavy tests --ignore tests/crash

sanitize: $(VENV)/test
	cd tests && ../$(PY) -m native.run

fuzz: $(VENV)/test
	cd tests && ../$(PY) -m fuzz.run $(SECONDS) $(SEED)

stress: $(VENV)/test
	$(PY) -m pytest -m 'heavy or not heavy' tests/laws/test_stress.py tests/laws/test_reader_stress.py -s

bench: $(VENV)/bench
	$(PY) benchmarks/run.py

gpu:
	$(GPU_PYTHON) benchmarks/gpu/run.py

clean:
	rm -rf $(VENV) build site *.egg-info engine/_native*.so engine/_cuda*.so
