"""Pictures and figures of a row for the report: the clip before and after, moving, and how good the edit is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.media.clip import FileFrames
from ...fatezero_ext.media.pixels import as_floats
from ...fatezero_ext.media.streamed import StreamedFrames
from ...fatezero_ext.media.video import pictures_of
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
MOST_HELD = 32
"""Frames that are taken of a clip for a preview, which need not be in memory; a film sheet shows at most 16."""


@dataclass
class Seen:
    """The clip that was edited, the one that was saved, and where it may differ; None where no node had them.

    before, after:  [frames, height, width, 3], 0..1
    mask:           [frames, height, width], 0..1
    sources, saved: nodes that encoded and saved clips; with several nobody knows which ones belong together
    """

    before: Tensor | FileFrames | StreamedFrames | None = None
    after: Tensor | FileFrames | StreamedFrames | None = None
    mask: Tensor | StreamedFrames | None = None
    sources: set[str] = field(default_factory=set)
    saved: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Begin a row. The clip before the edit stays: rows of a unit have it in common, and its node may not run."""
        self.after = self.mask = None
        self.saved.clear()

    def __call__(self, node: Node, inputs: Mapping[str, Sequence[Any]], result: Result) -> None:
        """Look at a node that has run."""
        kind = node.class_type
        if kind == "VAEEncode" and inputs.get("pixels"):
            self.before = _frames(inputs["pixels"][0])
            self.sources.add(node.id)
        elif kind in MASK_OUTPUT and len(result.lists) > MASK_OUTPUT[kind] and result.lists[MASK_OUTPUT[kind]]:
            self.mask = result.lists[MASK_OUTPUT[kind]][0]
        elif kind in SAVED and inputs.get(SAVED[kind]):
            self.saved.add(node.id)
            if self.after is None:
                self.after = _frames(inputs[SAVED[kind]][0])
                if isinstance(self.after, StreamedFrames) and kind == "SaveVideo" and result.shown.get("saved"):
                    self.after = FileFrames(Path(result.shown["saved"][0]))  # not made again for a preview


def _frames(given: Any) -> Tensor | FileFrames | StreamedFrames | None:  # noqa: ANN401 - a clip, or pictures
    frames = getattr(given, "frames", given)
    if isinstance(frames, (FileFrames, StreamedFrames)):
        return frames
    return frames[..., :3] if hasattr(frames, "shape") and len(frames.shape) == 4 else None


def _some(frames: Tensor | FileFrames | StreamedFrames) -> tuple[Tensor, int]:
    """Return at most MOST_HELD frames, spread evenly over a clip, and the number of all; the same of clips as long."""
    import torch

    count, stride = 0, 1
    if isinstance(frames, torch.Tensor):
        while len(frames[::stride]) > MOST_HELD:
            stride *= 2
        return frames[::stride], len(frames)
    held: list[Tensor] = []
    for frame in _one_by_one(frames):
        if count % stride == 0:
            held.append(frame)
        count += 1
        if len(held) > MOST_HELD:
            held, stride = held[::2], 2 * stride
    return torch.stack(held)[..., :3], count


def _one_by_one(frames: FileFrames | StreamedFrames) -> Iterator[Tensor]:
    if isinstance(frames, FileFrames):
        for picture, _ in pictures_of(frames.path, 0, None, 1):
            yield as_floats(picture)
    else:
        for part in frames.parts():
            yield from part


def write_preview(folder: Path, seen: Seen) -> str:
    """Write a small moving picture of before and after beside each other; returns its name, '' where there is none."""
    if seen.after is None:
        return ""
    from ...fatezero_ext.pictures.film_sheet import film_sheet
    from ...fatezero_ext.pictures.labelled_sheet import Tile

    found = [_some(frames) for frames in (seen.before, seen.after) if frames is not None]
    alike = len({(count, frames.shape) for frames, count in found}) == 1
    sheet = film_sheet([Tile("", frames) for frames, _ in (found if alike else found[-1:])])
    height, width = sheet.picture.height // sheet.frames, sheet.picture.width
    pictures = [sheet.picture.crop((0, top, width, top + height)) for top in range(0, sheet.picture.height, height)]
    pictures[0].save(
        folder / PREVIEW, save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0, quality=80, method=3
    )
    return PREVIEW


def measured(seen: Seen) -> dict[str, Any]:
    """Return the figures of `measure` for an edit, or a remark that says why there are none."""
    import torch

    before, after, mask = seen.before, seen.after, seen.mask
    if len(seen.sources) > 1 or len(seen.saved) > 1:
        return {"remark": "not measured: the workflow has several clips, and which belong together is not known"}
    if isinstance(before, (FileFrames, StreamedFrames)) or isinstance(after, (FileFrames, StreamedFrames)):
        return {"remark": "not measured: the clip is too long to be in memory; use `measure` on its files"}
    if before is None or after is None or before.shape != after.shape:
        return {"remark": "not measured: there is no edit, or it has other frames than its source"}
    from ...fatezero_ext.metrics.edit_metrics import as_json, measure_edit
    from ...fatezero_ext.metrics.stability import dis_flow

    return as_json(measure_edit(before, after, mask=mask if isinstance(mask, torch.Tensor) else None, flow=dis_flow))
