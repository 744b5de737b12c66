"""Quality of an edit: the published CLIP figures, and its likeness to the source outside the edited area.

Source: FateZero (arXiv 2303.09535), quantitative comparison: frame accuracy and temporal consistency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from ..errors import VideoError
from ..media.frame_files import NO_MASK
from ..media.framing import same_proportions

if TYPE_CHECKING:
    from .clip_scores import ClipScorer, OnPicture

FRAMES_COMPARED_AT_ONCE = 4
"""Bound of memory; frames are compared one by one."""
SSIM_SIGMA, SSIM_WINDOW = 1.5, 11
"""Pixels: the Gaussian that the authors of SSIM weigh neighbours with, and where they cut it off."""


class Similarity(NamedTuple):
    """Likeness of an edit to its source.

    psnr:   dB over all compared values; infinite where they are identical
    ssim:   mean of the structural similarity map over the compared pixels, at most 1
    share:  fraction of the pixels that was compared
    """

    psnr: float
    ssim: float
    share: float


@dataclass(frozen=True)
class EditMetrics:
    """Measurements of an edit; a figure that was not measured is None, with the reason among `remarks`.

    frames, height, width: size of the clips
    likeness:              to the source, where nothing was to change; None if everything was
    frame_accuracy:        fraction of frames at least as close to the edit prompt as to the source prompt
    temporal_consistency:  mean cosine of consecutive frames' CLIP embeddings
    """

    frames: int
    height: int
    width: int
    likeness: Similarity | None = None
    frame_accuracy: float | None = None
    temporal_consistency: float | None = None
    remarks: tuple[str, ...] = ()


def frame_accuracy(pictures: Tensor, source: Tensor, edit: Tensor) -> float:
    """Return the share of frames whose similarity to the edit prompt is at least that to the source prompt.

    pictures:     [frames, width], of length 1
    source, edit: [width], the prompts', of length 1
    """
    return (pictures @ edit >= pictures @ source).double().mean().item()


def temporal_consistency(pictures: Tensor) -> float | None:
    """Return the mean cosine of consecutive frames' embeddings [frames, width]; None for a single frame."""
    if len(pictures) < 2:
        return None
    return cosine_similarity(pictures[:-1], pictures[1:], dim=-1).double().mean().item()


def likeness(source: Tensor, edited: Tensor, mask: Tensor | None = None) -> Similarity | None:
    """Compute PSNR and SSIM of an edit against its source; None if the mask leaves nothing to compare.

    source, edited: [frames, height, width, 3], 0..1; values outside are clipped
    mask:           [frames or 1, h, w] or [h, w], 0..1, at least 0.5 where something may change; scaled to the frames
                    without smoothing. Only the rest is compared. None: everything is.
    Raises VideoError where clips or mask do not fit each other.
    """
    _check_clips(source, edited)
    compared = _compared(mask, source)
    if not compared.any():
        return None
    squares, similarity, pixels = 0.0, 0.0, int(compared.sum())
    for part in _parts(len(source)):
        # Variances as differences of squares lose the digits that tell flat areas apart in float32.
        first, second = (clip[part].to("cpu", torch.float64).clamp(0, 1).movedim(-1, 1) for clip in (source, edited))
        here = compared[part]
        squares += (first - second).square().mean(1)[here].sum().item()
        similarity += _ssim_map(second, first)[here].sum().item()
    error = squares / pixels
    return Similarity(-10 * math.log10(error) if error else math.inf, similarity / pixels, pixels / compared.numel())


def _parts(frames: int) -> Iterator[slice]:
    return (slice(first, first + FRAMES_COMPARED_AT_ONCE) for first in range(0, frames, FRAMES_COMPARED_AT_ONCE))


def _ssim_map(edited: Tensor, source: Tensor) -> Tensor:
    """Structural similarity at each pixel [frames, height, width] of images [frames, 3, height, width] in 0..1."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # seconds to import

    _, full = structural_similarity_index_measure(
        edited,
        source,
        gaussian_kernel=True,
        sigma=SSIM_SIGMA,
        kernel_size=SSIM_WINDOW,
        data_range=1.0,
        return_full_image=True,
    )
    return full.mean(1)


def _check_clips(source: Tensor, edited: Tensor) -> None:
    for name, clip in (("source", source), ("edited", edited)):
        if clip.ndim != 4 or clip.shape[-1] != 3 or clip.numel() == 0:
            raise VideoError(
                f"the {name} clip has shape {list(clip.shape)}; needed is [frames, height, width, 3] with at least "
                f"one frame. Check what is connected."
            )
        if not clip.isfinite().all():
            raise VideoError(f"the {name} clip holds values that are not numbers; needed is 0..1. Check its model.")
    if source.shape != edited.shape:
        raise VideoError(
            f"source and edited differ: {_named(source)} and {_named(edited)}; both need the same frames and size. "
            f"Take as many frames of both, scaled and cropped alike."
        )
    if min(source.shape[1:3]) < SSIM_WINDOW:
        raise VideoError(
            f"the clips are {_named(source)}; structural similarity needs sides of at least {SSIM_WINDOW} pixels. "
            f"Use larger frames."
        )


def _named(clip: Tensor) -> str:
    return f"{len(clip)} frames of {clip.shape[2]}x{clip.shape[1]}"


def _compared(mask: Tensor | None, source: Tensor) -> Tensor:
    """Mark the pixels that are compared: booleans [frames, height, width]."""
    frames, height, width = source.shape[:3]
    if mask is None:
        return torch.ones(frames, height, width, dtype=torch.bool)
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or mask.numel() == 0 or len(mask) not in (1, frames):
        raise VideoError(
            f"the mask has shape {list(mask.shape)}; needed is [frames, height, width] with 1 frame or {frames}, as "
            f"the clips have. Make the mask of the same frames."
        )
    if not mask.isfinite().all():
        raise VideoError("the mask holds values that are not numbers; needed is 0..1. Check where it comes from.")
    rows, columns = mask.shape[1:]
    no_mask = (rows, columns) == NO_MASK and not mask.any()
    if not no_mask and not same_proportions(rows, columns, height, width):
        raise VideoError(
            f"the mask is {mask.shape[2]}x{mask.shape[1]}, the clips are {width}x{height}; a mask of the same "
            f"proportions is needed. Crop or scale the mask as the clips were."
        )
    scaled = interpolate(mask[:, None].to("cpu", torch.float32), size=(height, width), mode="nearest-exact")[:, 0]
    return (scaled < 0.5).expand(frames, height, width)


def measure_edit(
    source: Tensor,
    edited: Tensor,
    *,
    mask: Tensor | None = None,
    clip: ClipScorer | None = None,
    source_prompt: str = "",
    edit_prompt: str = "",
    on_picture: OnPicture | None = None,
) -> EditMetrics:
    """Measure an edit as far as the arguments allow.

    source, edited: [frames, height, width, 3], 0..1
    mask:           [frames or 1, h, w], white where something may change
    clip:           None: the CLIP figures are not measured
    on_picture:     called with the number of frames that CLIP has seen
    Raises VideoError if clips or mask do not fit, PromptError for a prompt too long for the CLIP model.
    """
    frames, height, width = source.shape[:3]
    measures = EditMetrics(frames, height, width, likeness(source, edited, mask))
    remarks = [] if measures.likeness else ["PSNR and SSIM: not measured, the mask is white everywhere"]
    if clip is None:
        remarks.append("frame accuracy and temporal consistency: not measured, no CLIP model was given")
        return replace(measures, remarks=tuple(remarks))
    pictures, (source_words, edit_words) = clip.embeddings(edited, (source_prompt, edit_prompt), on_picture)
    consistency = temporal_consistency(pictures)
    if consistency is None:
        remarks.append("temporal consistency: not measured, it needs at least two frames")
    accuracy = None
    if source_prompt.strip() and edit_prompt.strip():
        accuracy = frame_accuracy(pictures, source_words, edit_words)
    else:
        remarks.append("frame accuracy: not measured, it needs a source prompt and an edit prompt")
    return replace(measures, frame_accuracy=accuracy, temporal_consistency=consistency, remarks=tuple(remarks))


def rows(measures: EditMetrics) -> list[tuple[str, str]]:
    """Return readable names and figures; what was not measured is left out."""
    shown = [("clips", f"{measures.frames} frames of {measures.width}x{measures.height}")]
    if measures.frame_accuracy is not None:
        closer = round(measures.frame_accuracy * measures.frames)
        shown.append(("frame accuracy", f"{measures.frame_accuracy:.3f} ({closer} of {measures.frames} frames)"))
    if measures.temporal_consistency is not None:
        shown.append(("temporal consistency", f"{measures.temporal_consistency:.4f}"))
    found = measures.likeness
    if found is None:
        return shown
    where = "" if found.share == 1 else f" over the {found.share:.1%} of pixels that the mask keeps"
    decibels = f"{found.psnr:.2f} dB" if math.isfinite(found.psnr) else "infinite, the pixels are identical"
    return [*shown, (f"PSNR{where}", decibels), (f"SSIM{where}", f"{found.ssim:.4f}")]


def report(measures: EditMetrics) -> str:
    """Return a readable report, one line for each figure and remark."""
    return "\n".join([*(f"{name}: {figure}" for name, figure in rows(measures)), *measures.remarks])


def as_json(measures: EditMetrics) -> dict[str, object]:
    """Return all figures for programs: None is "not measured", and also the PSNR where `identical` is true."""
    found = measures.likeness or Similarity(math.nan, math.nan, 0.0)
    return {
        "frames": measures.frames,
        "height": measures.height,
        "width": measures.width,
        "frame_accuracy": measures.frame_accuracy,
        "temporal_consistency": measures.temporal_consistency,
        "psnr": found.psnr if math.isfinite(found.psnr) else None,
        "identical": math.isinf(found.psnr),
        "ssim": found.ssim if measures.likeness else None,
        "compared_share": found.share,
        "remarks": list(measures.remarks),
    }
