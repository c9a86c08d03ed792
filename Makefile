# make run    set up, train the default workload to its target, print the account and the path of the report
# make test   the same set-up, then the whole test suite
# make gpu    on a machine with a GPU: everything that wants one, in stages that resume; STAGE=llama runs one
# make lint   ruff
# Everything is installed into .venv; nothing needs root. PYTHON chooses the interpreter (3.11 or newer).
# `make gpu PYTHON=python3` takes that interpreter's own torch and triton: no .venv, no network, perfsuite alone is built
# into .gpu/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.set-up
JOBS ?= 2

.PHONY: run test gpu lint set-up clean
run: $(SETUP)
	$(BIN)/perfsuite run

test: $(SETUP)
	$(BIN)/pytest -n $(JOBS) --dist loadfile

ifeq ($(origin PYTHON),command line)
gpu: .gpu/.set-up
	PYTHONPATH=$(CURDIR)/.gpu:$$PYTHONPATH PYTHONSAFEPATH=1 $(PYTHON) bench/gpu.py $(STAGE)
else
gpu: $(SETUP)
	$(BIN)/python -P bench/gpu.py $(STAGE)
endif

.gpu/.set-up: pyproject.toml setup.py $(wildcard csrc/*/* csrc/ops/*/* kernels/* perfsuite/* perfsuite/*/* workloads/*)
	$(PYTHON) -m pip install --quiet --no-index --no-deps --no-build-isolation --upgrade --target .gpu .
	touch $@

lint: $(SETUP)
	$(BIN)/ruff check .

set-up: $(SETUP)

# torch first and alone: one version for everybody, whatever a newer one would bring.
$(SETUP): pyproject.toml setup.py constraints.txt $(wildcard csrc/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "perfsuite needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 2; }
	@$(PYTHON) -c 'import os, sysconfig; p = os.path.join(sysconfig.get_paths()["include"], "Python.h"); raise SystemExit(0 if os.path.exists(p) else f"{p} is missing: install the headers of this Python (python3-dev)")'
	@command -v g++ > /dev/null || { echo "perfsuite needs a C++17 compiler: install g++"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --requirement constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[torch,workloads,report,stacks,mlperf,bench,test]'
	$(BIN)/python -m perfsuite.torch_extension
	touch $@

clean:
	rm -rf $(VENV) .gpu build *.egg-info perfsuite/*.so
