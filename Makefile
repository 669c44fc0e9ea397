# Set-up is part of every target: a fresh clone needs nothing but Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICK ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What pip builds with is pinned too: older versions of pip take the first name, newer ones the second.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: demo docs determinism test test-slow test-gpu wheel examples fuzz audit lint bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,test]"
	touch $@

demo: $(VENV)/.installed  ## the whole chain on two simulated subjects, into demo/ (QUICK=1: a third of the trials)
	$(BIN)/hyperdecode demo demo $(if $(QUICK),--quick)

determinism: $(VENV)/.installed  ## the quick demo twice, every file compared (STUDY=small WORKERS="1 2": as CI does)
	$(BIN)/hyperdecode weights fetch mobilestylegan-ffhq
	$(BIN)/hyperdecode weights fetch face-models
	$(BIN)/hyperdecode weights fetch atlas
	$(BIN)/python benchmarks/determinism.py --study $(or $(STUDY),quick) --workers $(or $(WORKERS),1) --limit $(or $(LIMIT),3600)

test: $(VENV)/.installed  ## all tests but the slow ones
	$(BIN)/hyperdecode weights fetch mobilestylegan-ffhq
	$(BIN)/hyperdecode weights fetch face-models
	$(BIN)/hyperdecode weights fetch atlas
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile

test-slow: $(VENV)/.installed  ## tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.installed  ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

wheel: $(VENV)/.installed  ## the built wheel in an empty environment of each Python from 3.11 to 3.13 that is here
	$(BIN)/python -m pytest -m "slow or not slow" -s tests/test_packaging.py

examples: $(VENV)/.installed  ## the examples of the docs run again, their pages written; those without their data are left
	$(BIN)/python docs/examples/make.py

fuzz: $(VENV)/.installed  ## 20,000 harmed files through every reader, in processes of limited memory and time
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

audit:  ## known vulnerabilities of the pinned versions; skipped with a reason where nobody can be asked
	$(PYTHON) .ci/audit.py

lint: $(VENV)/.installed docs  ## style, types, the import contract and the docs site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src:. $(BIN)/mypy --strict --explicit-package-bases -p training.pggan
	$(BIN)/lint-imports

docs: $(VENV)/.installed  ## the docs site, strictly, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(VENV)/.installed  ## every benchmark, one JSON line a claim
	$(BIN)/python benchmarks/generators.py --json
	$(BIN)/python benchmarks/explore.py --json
	$(BIN)/python benchmarks/glm.py --json
	$(BIN)/python benchmarks/normalise.py --json
	$(BIN)/python benchmarks/realign.py --json
	$(BIN)/python benchmarks/decoders.py --json --only ridge
	$(BIN)/python benchmarks/evaluation.py --json
	$(BIN)/python benchmarks/simulate.py --json

clean:
	rm -rf $(VENV) .venv-audit demo build *.egg-info
