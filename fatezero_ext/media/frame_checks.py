"""The check of frames that every border shares."""

from __future__ import annotations

from ..errors import VideoError, described

COLOURS = 3
FRACTIONS = "values 0..1 are needed. Divide bytes by 255: frames.float() / 255."


def check_frames(frames: object, name: str = "frames", *, more_channels: bool = False) -> None:
    """Raise VideoError unless these are frames, [frames, height, width, 3], of numbers with a fraction.

    name:          of the frames in errors; all but the default are of one clip
    more_channels: whether channels may follow the three colours
    """
    from torch import Tensor

    verbs = ("are", "have") if name == "frames" else ("is", "has")
    shape = f"[frames, height, width, {COLOURS}{' or more' if more_channels else ''}]"
    if not isinstance(frames, Tensor):
        raise VideoError(
            f"{name} {verbs[0]} {described(frames)}; frames {shape} with values 0..1 are needed. Give a VAE's decoded "
            f"frames, or those of read_video(path).frames."
        )
    fits = frames.ndim == 4 and (frames.shape[-1] == COLOURS or (more_channels and frames.shape[-1] > COLOURS))
    if not fits or frames.numel() == 0:
        raise VideoError(
            f"{name} {verbs[1]} shape {list(frames.shape)}; needed is {shape} with at least one frame. Check what is "
            f"connected."
        )
    if not frames.is_floating_point():
        raise VideoError(f"{name} {verbs[0]} {frames.dtype}; {FRACTIONS}")
