"""Pixels of the source in place of an edit's, wherever nothing was to change."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..errors import SettingsError, VideoError, described, is_whole
from ..media.frame_checks import check_frames
from ..pictures.comparison_grid import centre_crop_like, check_alike
from .user_mask import checked_mask

CELL = 8
"""Pixels along a side of the latent cells of Stable Diffusion."""
MOST_PIXELS = 1024
"""Upper bound of growing and feathering; padding by much more would only cost memory."""
FRAMES_AT_ONCE = 4
"""Bound of memory: frames are composed one by one."""


def keep_source_pixels(edited: Tensor, source: Tensor, mask: Tensor, *, grow: int = 0, feather: int = CELL) -> Tensor:
    """Put the source's own pixels back outside a mask, so that nothing there is lost to VAE, inversion or guidance.

    edited:  [frames, height, width, 3], 0..1
    source:  the same frames; up to 7 pixels a side more are cut off about the centre, as a VAE cuts them
    mask:    [frames or 1, h, w] of the clip's proportions, in latent cells or in pixels, above 0.5 where the edit
             stays: `EditResult.last_mask`, or one of your own
    grow:    pixels by which the mask is grown to all sides, in squares
    feather: pixels over which edit and source fade into each other, half of them on either side of the grown mask's
             edge; with 0 the edge is hard
    Returns a new tensor shaped like `edited`. Where the mask is black altogether it is the source, where it is white
    altogether the edit, to the bit. The mask of an edit needs no growing, as the maps it comes from are grown already;
    a fade wider than a cell eats thin objects.
    Raises VideoError for what is no clip and for clips that do not fit each other, SettingsError for a mask or numbers
    that do not fit.
    """
    for name, clip in (("source", source), ("edited", edited)):
        check_frames(clip, repr(name))
    for name, number in (("grow", grow), ("feather", feather)):
        _check_pixels(name, number)
    source = centre_crop_like(source, edited)
    check_alike([source, edited], ["source", "edited"])
    size = (edited.shape[1], edited.shape[2])
    inside = checked_mask(_cut_like(mask, edited), len(edited), size, pixels_per_cell=1)
    for name, clip in (("source", source), ("edited", edited)):
        _check_values(name, clip)
    composed = torch.empty_like(edited)
    for first in range(0, len(edited), FRAMES_AT_ONCE):
        part = slice(first, first + FRAMES_AT_ONCE)
        share = _edit_share(inside[part].to(edited.device), size, grow, feather)[..., None].to(edited.dtype)
        composed[part] = torch.lerp(source[part].to(edited), edited[part], share)
    return composed


def _edit_share(mask: Tensor, size: tuple[int, int], grow: int, feather: int) -> Tensor:
    """Return the share that the edit has of each pixel, 0..1.

    mask: bool [frames, h, w]
    Returns float32 [frames, *size].
    """
    pixels = interpolate(mask[:, None].float(), size=size, mode="nearest-exact")[:, 0].int()
    if grow:
        pixels = pad(pixels, (grow,) * 4)
        for axis in (1, 2):
            pixels = (_window_sums(pixels, 2 * grow + 1, axis) > 0).int()
    if not feather:
        return pixels.float()
    # A window of an even width has half a pixel at both ends: two windows, one pixel apart. Over squares of constant
    # values a window as wide as they are is bilinear scaling.
    windows = [feather, 2] if feather % 2 == 0 else [feather]
    edges = pad(pixels[:, None].float(), (feather // 2,) * 4, mode="replicate")[:, 0].int()
    for axis in (1, 2):
        for width in windows:
            edges = _window_sums(edges, width, axis)
    return edges / float(feather * len(windows)) ** 2


def _window_sums(values: Tensor, width: int, axis: int) -> Tensor:
    """Sum all windows of `width` neighbours along an axis, which gets shorter by width - 1.

    Running sums cost the same for any width; integers keep them exact.
    """
    length = values.shape[axis] - width
    sums = values.cumsum(axis, dtype=torch.int32)
    first = sums.narrow(axis, width - 1, 1)
    return torch.cat([first, sums.narrow(axis, width, length) - sums.narrow(axis, 0, length)], axis)


def _cut_like(mask: Tensor, edited: Tensor) -> Tensor:
    """Return a mask in pixels of the uncut source, cut as the source is; any other one as it is."""
    is_stack = isinstance(mask, Tensor) and mask.ndim == 3
    return centre_crop_like(mask[..., None], edited)[..., 0] if is_stack else mask


def _check_pixels(name: str, number: object) -> None:
    if not is_whole(number, 0, MOST_PIXELS):
        raise SettingsError(
            f"{name} is {described(number)}; a whole number of pixels, 0 to {MOST_PIXELS}, is needed. A latent cell of "
            f"Stable Diffusion has {CELL}."
        )


def _check_values(name: str, clip: Tensor) -> None:
    if not all(frame.isfinite().all() for frame in clip):
        raise VideoError(f"{name!r} holds values that are not numbers; 0..1 is needed. Check where it comes from.")
