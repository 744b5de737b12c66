# make demo    edit a sample clip with a built-in model (the main job)
# make test    run the test suite
# make test-comfyui COMFYUI_PATH=/path/to/ComfyUI [COMFYUI_PYTHON=its python]
#              run the tests that need ComfyUI: in its process, over HTTP, on its page
# make lint    check style, formatting, types and the rules of imports
# make clean   remove the environment and everything that runs leave behind

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# By exact version and first, so that pip's own configuration decides which build of it (CPU or CUDA) is taken.
TORCH := torch==2.13.0

COMFYUI_PATH ?=
# The Python that ComfyUI runs with, in the usual places; it needs pytest, and playwright for the page.
COMFYUI_PYTHON ?= $(firstword $(wildcard $(foreach place,.venv/bin venv/bin ../python_embeded,$(COMFYUI_PATH)/$(place)/python)) $(PYTHON))

.PHONY: demo test test-comfyui lint clean

demo: $(VENV)/.runtime
	$(BIN)/python -m fatezero_ext demo

test: $(VENV)/.dev
	@# The programs that tests start read what the first has compiled.
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-comfyui:
	@test -f "$(COMFYUI_PATH)/main.py" || { echo "make test-comfyui COMFYUI_PATH=/path/to/ComfyUI: there is no main.py in '$(COMFYUI_PATH)'"; exit 2; }
	COMFYUI_PATH="$(abspath $(COMFYUI_PATH))" $(COMFYUI_PYTHON) -m pytest tests/comfyui -rs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# Both read the checkout as one package, as ComfyUI does, whatever its folder is called.
	@mkdir -p .lint && ln -sfn .. .lint/fatezero_pack
	$(BIN)/mypy
	PYTHONPATH=.lint $(BIN)/lint-imports .importlinter --no-cache

$(VENV)/.runtime: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(PIP) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) output build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .lint .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
