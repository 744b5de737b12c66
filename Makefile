# make demo    edit the sample clip with the built-in model (the main job)
# make test    run the test suite
# make lint    check style and formatting
# make clean   remove the environment and everything that runs leave behind

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# By exact version and first, so that pip's own configuration decides which build of it (CPU or CUDA) is taken.
TORCH := torch==2.13.0

.PHONY: demo test lint clean

demo: $(VENV)/.runtime
	$(BIN)/python -m fatezero_ext demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/.runtime: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(PIP) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) output build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
