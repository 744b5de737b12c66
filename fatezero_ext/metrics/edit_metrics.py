"""Quality of an edit: the published CLIP figures, and its likeness to the source outside the edited area, also in time.

Source: FateZero (arXiv 2303.09535), quantitative comparison: frame accuracy and temporal consistency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .clip_pairs import SSIM_SIGMA, SSIM_WINDOW, NotMeasured, check_clips, compared_pixels
from .stability import LEAST_FLOW_SIDE, flicker, warp_errors
from .vmaf import vmaf_score

if TYPE_CHECKING:
    from .clip_scores import ClipScorer, OnPicture
    from .stability import FlowFinder, WarpErrors

FRAMES_COMPARED_AT_ONCE = 4
"""Bound of memory; frames are compared one by one."""


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
    flicker:               mean change between frames that the source does not have, where nothing was to change; 1/255
    warp_errors:           of edit and source along the source's motion, there as well
    vmaf:                  against the source, 0..100, with the source's pixels wherever something might change
    """

    frames: int
    height: int
    width: int
    likeness: Similarity | None = None
    frame_accuracy: float | None = None
    temporal_consistency: float | None = None
    flicker: float | None = None
    warp_errors: WarpErrors | None = None
    vmaf: float | None = None
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
    Raises VideoError where clips or mask are none, or do not fit each other.
    """
    check_clips(source, edited)
    compared = compared_pixels(mask, source)
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


def measure_edit(
    source: Tensor,
    edited: Tensor,
    *,
    mask: Tensor | None = None,
    clip: ClipScorer | None = None,
    source_prompt: str = "",
    edit_prompt: str = "",
    on_picture: OnPicture | None = None,
    flow: FlowFinder | None = None,
    with_vmaf: bool = False,
) -> EditMetrics:
    """Measure an edit as far as the arguments allow.

    source, edited: [frames, height, width, 3], 0..1
    mask:           [frames or 1, h, w], white where something may change
    clip:           None: the CLIP figures are not measured
    on_picture:     called with the number of frames that CLIP has seen
    flow:           finds the source's motion, for example `dis_flow`; None: the warp error is not measured
    with_vmaf:      also measure VMAF, by the program of the package imageio-ffmpeg
    Raises VideoError if clips or mask are none or do not fit, PromptError for a prompt too long for the CLIP model.
    """
    measures, remarks = _by_pixels(source, edited, mask, flow, with_vmaf)
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


def _by_pixels(
    source: Tensor, edited: Tensor, mask: Tensor | None, flow: FlowFinder | None, with_vmaf: bool
) -> tuple[EditMetrics, list[str]]:
    """Measure what needs no CLIP model. Returns also the remarks on what was not measured."""
    alike = likeness(source, edited, mask)
    frames, height, width = source.shape[:3]
    measures, remarks = EditMetrics(frames, height, width, alike), []
    if measures.likeness is None:
        return measures, ["PSNR and SSIM: not measured, the mask is white everywhere; nor are figures over time"]
    compared = compared_pixels(mask, source)
    measures = replace(measures, flicker=flicker(source, edited, compared))
    if measures.flicker is None:
        remarks.append("flicker: not measured, it needs two frames that follow each other with a part to compare")
    try:
        measures = replace(measures, warp_errors=_warp_errors(source, edited, compared, flow))
    except NotMeasured as reason:
        remarks.append(f"warp error: not measured, {reason}")
    if with_vmaf:
        try:
            measures = replace(measures, vmaf=vmaf_score(source, edited, compared))
        except NotMeasured as reason:
            remarks.append(f"VMAF: not measured, {reason}")
    return measures, remarks


def _warp_errors(source: Tensor, edited: Tensor, compared: Tensor, flow: FlowFinder | None) -> WarpErrors:
    """Measure the warp errors; raise NotMeasured with the reason where there are none."""
    if len(source) < 2:
        raise NotMeasured("it needs at least two frames")
    if flow is None:
        raise NotMeasured("no flow was given")
    if min(source.shape[1:3]) < LEAST_FLOW_SIDE:
        raise NotMeasured(f"it needs sides of at least {LEAST_FLOW_SIDE} pixels")
    found = warp_errors(source, edited, compared, flow)
    if found is None:
        raise NotMeasured("the source's motion cannot be followed where the mask is black")
    return found


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
    shown += [(f"PSNR{where}", decibels), (f"SSIM{where}", f"{found.ssim:.4f}")]
    if measures.flicker is not None:
        shown.append((f"flicker{where}", f"{measures.flicker:.2f} levels of 255"))
    if warp := measures.warp_errors:
        followed = f"{warp.share:.1%} of pixels"
        shown.append((f"warp error over {followed}", f"{warp.edit:.2f} levels of 255 (source: {warp.source:.2f})"))
    if measures.vmaf is not None:
        shown.append((f"VMAF{where}", f"{measures.vmaf:.1f}"))
    return shown


def report(measures: EditMetrics) -> str:
    """Return a readable report, one line for each figure and remark."""
    return "\n".join([*(f"{name}: {figure}" for name, figure in rows(measures)), *measures.remarks])


def as_json(measures: EditMetrics) -> dict[str, object]:
    """Return all figures for programs: None is "not measured", and also the PSNR where `identical` is true."""
    found, warp = measures.likeness or Similarity(math.nan, math.nan, 0.0), measures.warp_errors
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
        "flicker": measures.flicker,
        "warp_error": warp.edit if warp else None,
        "source_warp_error": warp.source if warp else None,
        "warp_share": warp.share if warp else None,
        "vmaf": measures.vmaf,
        "remarks": list(measures.remarks),
    }
