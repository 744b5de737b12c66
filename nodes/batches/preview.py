"""Pictures and figures of a row for the report: the clip before and after, moving, and how good the edit is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.media.clip import FileFrames
from ..checking.graph_texts import EDIT_NODE, WHOLE_EDIT_NODE
from ..headless.graph import Node
from ..headless.run.execute import Result

if TYPE_CHECKING:
    from torch import Tensor

PREVIEW = "preview.webp"
FRAME_MS = 125
MASK_OUTPUT = {WHOLE_EDIT_NODE: 2, EDIT_NODE: 2}
"""Output of the mask in pixels."""
SAVED = {"SaveVideo": "video", "SaveImage": "images"}
"""Input of each saving node."""


@dataclass
class Seen:
    """The clip that was edited, the one that was saved, and where it may differ; None where no node had them.

    before, after: [frames, height, width, 3], 0..1
    mask:          [frames, height, width], 0..1
    """

    before: Tensor | None = None
    after: Tensor | None = None
    mask: Tensor | None = None

    def begin(self) -> None:
        """Begin a row. The clip before the edit stays: rows of a unit have it in common, and its node may not run."""
        self.after = self.mask = None

    def __call__(self, node: Node, inputs: Mapping[str, Sequence[Any]], result: Result) -> None:
        """Look at a node that has run."""
        kind = node.class_type
        if kind == "VAEEncode" and inputs.get("pixels"):
            self.before = _frames(inputs["pixels"][0])
        elif kind in MASK_OUTPUT and len(result.lists) > MASK_OUTPUT[kind] and result.lists[MASK_OUTPUT[kind]]:
            self.mask = result.lists[MASK_OUTPUT[kind]][0]
        elif kind in SAVED and self.after is None and inputs.get(SAVED[kind]):
            self.after = _frames(inputs[SAVED[kind]][0])

    @property
    def comparable(self) -> bool:
        """Return whether before and after are frames of the same number and size."""
        return self.before is not None and self.after is not None and self.before.shape == self.after.shape


def _frames(given: Any) -> Tensor | None:  # noqa: ANN401 - a clip, a file's frames, or pictures
    frames = getattr(given, "frames", given)
    if isinstance(frames, FileFrames):
        frames = frames.all()
    return frames[..., :3] if hasattr(frames, "shape") and len(frames.shape) == 4 else None


def write_preview(folder: Path, seen: Seen) -> str:
    """Write a small moving picture of before and after beside each other; returns its name, '' where there is none."""
    if seen.after is None:
        return ""
    from ...fatezero_ext.pictures.film_sheet import film_sheet
    from ...fatezero_ext.pictures.labelled_sheet import Tile

    shown = [seen.before, seen.after] if seen.before is not None and seen.comparable else [seen.after]
    sheet = film_sheet([Tile("", frames) for frames in shown])
    height, width = sheet.picture.height // sheet.frames, sheet.picture.width
    pictures = [sheet.picture.crop((0, top, width, top + height)) for top in range(0, sheet.picture.height, height)]
    pictures[0].save(
        folder / PREVIEW, save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0, quality=80, method=3
    )
    return PREVIEW


def measured(seen: Seen) -> dict[str, Any]:
    """Return the figures of `measure` for an edit; {} where before and after cannot be compared."""
    if seen.before is None or seen.after is None or not seen.comparable:
        return {}
    from ...fatezero_ext.metrics.edit_metrics import as_json, measure_edit
    from ...fatezero_ext.metrics.stability import dis_flow

    return as_json(measure_edit(seen.before, seen.after, mask=seen.mask, flow=dis_flow))
