"""Check that what the pack needs is installed, before any node is imported."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

MODULES = (
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "einops",
    "numpy",
    "PIL",
    "av",
    "rich",
    "torchmetrics",
    "yaml",
    "pydantic",
    "blake3",
    "filelock",
    "platformdirs",
    "psutil",
    "networkx",
)
"""Modules of `requirements.txt`, in its order."""
REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"


def check_requirements() -> None:
    """Raise ImportError, which says what to install and where, if a required module is missing.

    ComfyUI then lists the pack as one that failed to import, which its Manager offers to fix; otherwise the first run
    of a graph would fail in its middle. Nothing is imported.
    """
    if missing := [name for name in MODULES if find_spec(name) is None]:
        raise ImportError(
            f"FateZero needs {', '.join(missing)}, which the Python that runs here does not have. Install the packages "
            f"of {REQUIREMENTS} into {sys.executable} and restart."
        )
