"""A mask that a user brings: where an edit may differ from its source."""

from __future__ import annotations

from torch import Tensor

from ..errors import SettingsError
from ..media.framing import same_proportions


def checked_mask(mask: Tensor, frames: int, cells: tuple[int, int], pixels_per_cell: int) -> Tensor:
    """Check a mask against a clip and crop it as the clip was cropped.

    mask:   [frames or 1, height, width] of the clip's proportions at any scale; above 0.5 the edit may differ
    cells:  height and width of the clip's latents
    pixels_per_cell: of the clip's frames; the VAE crops their last pixels that do not fill a cell, about the centre
    Returns bool [frames, height, width], still at the mask's scale.
    Raises SettingsError for another frame count or other proportions, and for values that are not numbers.
    """
    if not isinstance(mask, Tensor):
        raise SettingsError(f"the mask is a {type(mask).__name__}; a torch tensor is needed. Convert it.")
    if mask.ndim != 3 or len(mask) not in (1, frames):
        raise SettingsError(
            f"the mask is shaped {list(mask.shape)}; [frames, height, width] with {frames} frames (or one for all) is "
            f"needed. Make the mask from the same clip."
        )
    height, width = mask.shape[1:]
    rows, columns = cells
    if (height // pixels_per_cell, width // pixels_per_cell) == cells:
        top, left = height % pixels_per_cell // 2, width % pixels_per_cell // 2
        mask = mask[:, top : top + rows * pixels_per_cell, left : left + columns * pixels_per_cell]
    elif not same_proportions(height, width, rows, columns):
        raise SettingsError(
            f"the mask is {height}x{width} (height x width), which is not the shape of the clip: its frames are "
            f"{rows * pixels_per_cell}x{columns * pixels_per_cell}. Crop or scale the mask as the clip was."
        )
    if not mask.isfinite().all():
        raise SettingsError("the mask holds values that are not numbers; 0..1 is needed. Check where it comes from.")
    return (mask > 0.5).expand(frames, -1, -1)
