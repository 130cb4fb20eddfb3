# make demo   set up .venv, train a 2-D model of real digits, evaluate and check it, draw it, report on it
# make test   set up .venv, run the tests        make test-slow   those that take minutes
# make lint   ruff and mypy                      make bench       the benchmarks, peers in .bench/
# make docs   the pages, in docs/_build/index.html

PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo

.PHONY: demo test test-slow lint bench docs clean

demo: .venv/aevb
	$(BIN)/aevb train digits --likelihood continuous-bernoulli --latent-dim 2 --hidden 256 --activation tanh --lr 3e-3 --epochs 400 --out $(RUN) --force
	@echo
	@$(BIN)/aevb evaluate $(RUN)
	@echo
	@$(BIN)/aevb check $(RUN)
	@echo
	@$(BIN)/aevb plot $(RUN) all
	@echo
	@$(BIN)/aevb report $(RUN)

test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-slow: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/aevb
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/figure.py
	$(BIN)/python benchmarks/digits.py

docs: .venv/docs
	$(BIN)/python -m sphinx -W -n -q docs docs/_build

# torch comes first and pinned: left free, an installer may choose a build of several gigabytes.
.venv/torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@touch $@

.venv/aevb: .venv/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/aevb
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

.venv/docs: .venv/aevb
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	@touch $@

clean:
	rm -rf .venv .bench build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
