"""Detection of model folders by their small files; no weights are read."""

from __future__ import annotations

from pathlib import Path

from ...errors import ModelError
from ...plain_files import read_json

TOY_FOLDER = Path(__file__).parents[2] / "toy" / "model"
"""The built-in model."""
PLAIN, FATEZERO, TUNE_A_VIDEO = "UNet2DConditionModel", "UNetPseudo3DConditionModel", "UNet3DConditionModel"
UNET_CLASSES = (PLAIN, FATEZERO, TUNE_A_VIDEO)
"""Class names in the config.json of UNets that can be loaded."""


def is_clip_folder(folder: Path) -> bool:
    """Return whether the folder's config.json describes a CLIP model with both towers; reads no other file."""
    try:
        return read_json(folder / "config.json").get("model_type") == "clip"
    except ModelError:
        return False
