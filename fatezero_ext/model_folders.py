"""Folders of models, told from their small files; no weights are read."""

from __future__ import annotations

import json
from pathlib import Path

TOY_FOLDER = Path(__file__).parent / "toy" / "model"
"""The built-in model."""


def is_clip_folder(folder: Path) -> bool:
    """Whether the folder's config.json describes a CLIP model with both towers; reads no other file."""
    return model_type(folder) == "clip"


def model_type(folder: Path) -> object:
    """What config.json says, or None where it says nothing."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("model_type") if isinstance(config, dict) else None
