# make run    set up, train the default workload to its target, print the account and the path of the report
# make test   the same set-up, then the whole test suite
# make lint   ruff
# Everything is installed into .venv; nothing needs root. PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.set-up
JOBS ?= 2

.PHONY: run test lint set-up clean
run: $(SETUP)
	$(BIN)/perfsuite run

test: $(SETUP)
	$(BIN)/pytest -n $(JOBS) --dist loadfile

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
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[torch,report,stacks,mlperf,bench,test]'
	$(BIN)/python -m perfsuite.torch_extension
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info perfsuite/*.so
