"""Detection of model folders by their small files; no weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from ...choices import World
from ...errors import ModelError
from ...untrusted.plain_files import read_json

TOY_FOLDER = Path(__file__).parents[2] / "toy" / "model"
"""The built-in model of coloured shapes."""
BUILT_IN_FOLDERS: Mapping[World, Path] = MappingProxyType(
    {"shapes": TOY_FOLDER, "objects": TOY_FOLDER.with_name("objects_model")}
)
"""Built-in models by what they draw."""
BUILT_IN_NAMES: Mapping[World, str] = MappingProxyType(
    {"shapes": "built-in toy model", "objects": "built-in objects model"}
)
"""Names that users know them by; the first is the default."""
PLAIN, FATEZERO, TUNE_A_VIDEO = "UNet2DConditionModel", "UNetPseudo3DConditionModel", "UNet3DConditionModel"
MARK = "fatezero_toy.json"
"""File in the UNet folder of the built-in models and of those its training makes; other programs pass it over."""
UNET_CLASSES = (PLAIN, FATEZERO, TUNE_A_VIDEO)
"""Class names in the config.json of UNets that can be loaded."""


def is_clip_folder(folder: Path) -> bool:
    """Return whether the folder's config.json describes a CLIP model with both towers; reads no other file."""
    try:
        return read_json(folder / "config.json").get("model_type") == "clip"
    except ModelError:
        return False


@dataclass(frozen=True)
class ToyMark:
    """Mark of a UNet folder that our own training made: its model is a built-in one.

    objects: names of the objects that the model was trained on beside coloured shapes
    """

    objects: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> ToyMark | None:
        """Read the mark of a UNet folder; None: it has none. Raises ModelError for a file of another form."""
        path = folder / MARK
        if not path.exists():
            return None
        objects = read_json(path).get("objects")
        if not isinstance(objects, list) or not all(isinstance(name, str) for name in objects):
            raise ModelError(
                f"{path} has no list of names under 'objects'; that is needed. Restore the file, or remove it: the "
                f"model then gets Stable Diffusion's settings."
            )
        return cls(tuple(objects))

    def save(self, folder: Path) -> None:
        """Write the mark into a UNet folder."""
        (folder / MARK).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
