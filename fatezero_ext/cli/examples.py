"""The example workflows that `demo` runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CIRCLE, CAT = "red_circle_on_grass", "cat_on_grass"
EXAMPLES = Path(__file__).parents[2] / "example_workflows"


@dataclass(frozen=True)
class Example:
    """An example workflow.

    file:    name of its file, without ending
    changes: attributes of the clip that its edit changes, such as {"colour": "blue"}
    clip:    name of its clip's file, without ending
    """

    file: str
    changes: Mapping[str, str]
    clip: str = CIRCLE


EXAMPLE_EDITS = {
    "colour": Example("1_colour_edit_with_mask", {"colour": "blue"}),
    "shape": Example("2_shape_edit", {"shape": "square"}),
    "background": Example("3_background_edit", {"background": "sand"}),
    "style": Example("4_style_edit", {"style": "watercolor"}),
    "animal": Example("5_animal_edit", {"shape": "panda"}, CAT),
}
