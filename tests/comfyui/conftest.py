"""Tests inside the real ComfyUI: `COMFYUI_PATH=... pytest tests/comfyui`, with its requirements installed."""

import os
import sys
from pathlib import Path

import pytest

COMFYUI = os.environ.get("COMFYUI_PATH")


@pytest.fixture(scope="session", autouse=True)
def comfyui():
    """ComfyUI's folder, importable and set to the CPU."""
    if not COMFYUI:
        pytest.skip("these tests run inside ComfyUI: set COMFYUI_PATH to its folder, and install its requirements")
    sys.path.insert(0, COMFYUI)
    arguments, sys.argv = sys.argv, ["comfyui", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = arguments
    return Path(COMFYUI)
