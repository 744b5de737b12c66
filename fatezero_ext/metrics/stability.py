"""Steadiness of an edit over time, compared with its source: flicker, and warp error along the source's motion."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from .clip_pairs import optional_module

LEVELS = 255
FLOW_PACKAGE = "opencv-python-headless"
"""Package of the optical flow; an extra that may be missing."""
LEAST_FLOW_SIDE = 12
"""Pixels; OpenCV's DIS flow refuses smaller frames."""
RELATIVE_MISMATCH, ABSOLUTE_MISMATCH = 0.01, 0.5
"""Bounds of Sundaram et al. on how far the flow there and back may miss its start: squared pixels, and per squared
length of the two flows. What misses by more is hidden in one of the frames."""

SAMPLED_WHOLLY = 1 - 1e-4
"""Share above which a bilinear sample is taken from compared pixels alone, but for rounding."""

FlowFinder = Callable[[Tensor, Tensor], Tensor]
"""Find where the pixels of one frame lie in another: two frames [height, width, 3] in 0..1 to a flow
[height, width, 2] in pixels, across and down."""


class WarpErrors(NamedTuple):
    """Warp errors in steps of 1/255.

    edit, source: of each clip; the source's own is what flow and noise leave
    share:        fraction of the pixels whose flow was consistent and that were compared
    """

    edit: float
    source: float
    share: float


def flicker(source: Tensor, edited: Tensor, compared: Tensor) -> float | None:
    """Return the mean change of the edit's difference to its source from frame to frame, in steps of 1/255.

    source, edited: [frames, height, width, 3], 0..1
    compared:       booleans [frames, height, width]; a pixel counts where this frame and the one before have it
    Returns None where nothing is compared in two frames that follow each other.
    """
    total, values = 0.0, 0
    for now in range(1, len(source)):
        here = compared[now] & compared[now - 1]
        changes = [_shown(edited[at])[here] - _shown(source[at])[here] for at in (now, now - 1)]
        total += (changes[0] - changes[1]).abs().sum(dtype=torch.float64).item()
        values += changes[0].numel()
    return LEVELS * total / values if values else None


def warp_errors(source: Tensor, edited: Tensor, compared: Tensor, flow: FlowFinder) -> WarpErrors | None:
    """Compare each frame with the one before, moved along the source's optical flow.

    source, edited: [frames, height, width, 3], 0..1
    compared:       booleans [frames, height, width]; a pixel counts where its frame has it, and the frame before all
                    that it is sampled from
    flow:           finds the motion, for example `dis_flow`
    Returns mean absolute differences where the flow there and back agrees and stays inside the frame; None if it
    agrees nowhere, or where there is a single frame.
    Source: warp error of Lai et al. (arXiv 1808.00449), there squared; consistency of Sundaram et al. (ECCV 2010).
    """
    totals, pixels = [0.0, 0.0], 0
    for now in range(1, len(source)):
        back = flow(source[now], source[now - 1])
        there = flow(source[now - 1], source[now])
        came_from = _moved(compared[now - 1][..., None].float(), back)[..., 0]
        valid = compared[now] & _consistent(back, there) & (came_from > SAMPLED_WHOLLY)
        for place, clip in enumerate((edited, source)):
            moved = _moved(_shown(clip[now - 1]), back)
            difference = (_shown(clip[now]) - moved).abs().mean(-1)[valid]
            totals[place] += difference.sum(dtype=torch.float64).item()
        pixels += int(valid.sum())
    if not pixels:
        return None
    edit, own = (LEVELS * total / pixels for total in totals)
    return WarpErrors(edit, own, pixels / compared[1:].numel())


def _shown(frame: Tensor) -> Tensor:
    """Return a frame as it is shown, on the CPU."""
    return frame.to("cpu", torch.float32).clamp(0, 1)


def _places(flow: Tensor) -> Tensor:
    """Return where each pixel comes from [height, width, 2], pixels across and down."""
    height, width = flow.shape[:2]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((columns, rows), dim=-1) + flow


def _moved(picture: Tensor, flow: Tensor) -> Tensor:
    """Sample a picture [height, width, channels] bilinearly where the flow points."""
    size = torch.tensor(flow.shape[1::-1], dtype=torch.float32)
    grid = (2 * _places(flow) + 1) / size - 1
    sampled = grid_sample(picture.movedim(-1, 0)[None], grid[None], padding_mode="border", align_corners=False)
    return sampled[0].movedim(0, -1)


def _consistent(back: Tensor, there: Tensor) -> Tensor:
    """Find the pixels whose flow leads into the frame and back to where it began: booleans [height, width]."""
    places, (height, width) = _places(back), back.shape[:2]
    last = torch.tensor((width - 1, height - 1))
    inside = ((places >= 0) & (places <= last)).all(-1)
    returned = _moved(there, back)
    missed = (back + returned).square().sum(-1)
    length = back.square().sum(-1) + returned.square().sum(-1)
    return inside & (missed <= RELATIVE_MISMATCH * length + ABSOLUTE_MISMATCH)


def dis_flow(frame: Tensor, other: Tensor) -> Tensor:
    """Find the optical flow between two frames by OpenCV's DIS, see `FlowFinder`.

    Raises NotMeasured where OpenCV is not installed, or cannot be imported.
    Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search (arXiv 1603.03590).
    """
    cv2 = optional_module("cv2", FLOW_PACKAGE)
    greys = [cv2.cvtColor(_bytes(picture), cv2.COLOR_RGB2GRAY) for picture in (frame, other)]
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return torch.from_numpy(finder.calc(*greys, None))


def _bytes(frame: Tensor) -> np.ndarray:
    return _shown(frame).mul(LEVELS).round().byte().contiguous().numpy()
