"""Key frames: the frames that a frame reads its self-attention keys from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import SettingsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


KeyFrame = int | str
DEFAULT_KEY_FRAMES: tuple[KeyFrame, ...] = (-1, "first")
KEY_FRAME_WORDS = ("first", "mid", "middle", "last")


def resolve_key_frames(key_frames: Sequence[KeyFrame], frames: int) -> tuple[tuple[int, ...], ...]:
    """Find for every entry the frame that each of `frames` frames takes its keys from.

    key_frames: integers are relative to the frame (clamped to the clip); "first", "mid" / "middle" and "last" are
                absolute. A single frame attends to itself whatever the list says: repeating its keys changes nothing.
    Returns one tuple [frames] of frame indices per entry.
    Raises SettingsError for an unknown word.
    Source: FateZero (arXiv 2303.09535), SparseCausalAttention_index.
    """
    checked = [_checked_key_frame(entry) for entry in key_frames]
    if frames == 1:
        return ()
    last = frames - 1
    absolute = {"first": 0, "mid": last // 2, "middle": last // 2, "last": last}
    return tuple(
        (absolute[entry],) * frames
        if isinstance(entry, str)
        else tuple(min(max(frame + entry, 0), last) for frame in range(frames))
        for entry in checked
    )


def _checked_key_frame(entry: KeyFrame) -> KeyFrame:
    if isinstance(entry, str) and entry in KEY_FRAME_WORDS:
        return entry
    if isinstance(entry, int) and not isinstance(entry, bool):
        return entry
    raise SettingsError(
        f"unknown key frame {entry!r}; a key frame is a whole number (relative to the frame) or one of "
        f"{', '.join(KEY_FRAME_WORDS)}. Write for example [-1, 'first'], or an empty list for each frame's own keys."
    )


def key_frame_tensors(key_frames: Sequence[KeyFrame], frames: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return the table of `resolve_key_frames` as index tensors [frames] on `device`."""
    import torch  # here alone: the words above are read without it

    return tuple(torch.tensor(row, device=device) for row in resolve_key_frames(key_frames, frames))
