"""Widgets of the nodes that choose, crop and scale frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ...fatezero_ext.media.framing import LONGEST_SIDE, Framing
from ..api import advanced, io

if TYPE_CHECKING:
    from typing_extensions import NotRequired

MOST_FRAMES = 1_000_000
"""Upper bound of the frame widgets; guards against typing errors."""
MOST_MULTIPLE = 512
ALL = 0
"""Value of the widgets for all frames, and for the size as it is."""
USUAL_FPS = 8.0
"""Default of the rate widgets: the rate of the published clips."""


class FramingWidgets(TypedDict):
    """Values of `framing_widgets`."""

    start: int
    count: int
    sampling_rate: int
    crop_left: int
    crop_right: int
    crop_top: int
    crop_bottom: int
    short_side: int
    centre_square: bool
    multiple_of: NotRequired[int]


def framing_of(widgets: FramingWidgets) -> Framing:
    """Return the framing that the widgets describe."""
    return Framing(
        start=widgets["start"],
        count=widgets["count"] or None,
        sampling_rate=widgets["sampling_rate"],
        left=widgets["crop_left"],
        right=widgets["crop_right"],
        top=widgets["crop_top"],
        bottom=widgets["crop_bottom"],
        short_side=widgets["short_side"] or None,
        centre_square=widgets["centre_square"],
        multiple_of=widgets.get("multiple_of", 1),
    )


def rate_widget(tooltip: str, *, optional: bool = False) -> io.Input:
    """Make the widget for frames per second."""
    return io.Float.Input("fps", default=USUAL_FPS, min=0.01, max=1000.0, step=0.01, optional=optional, tooltip=tooltip)


def multiple_widget() -> io.Input:
    """Make the widget for sides that are multiples of a number of pixels."""
    return advanced(
        io.Int.Input(
            "multiple_of",
            default=1,
            min=1,
            max=MOST_MULTIPLE,
            optional=True,
            tooltip="Cut both sides evenly to a multiple of this many pixels. 64 gives every level of Stable Diffusion "
            "whole cells, 32 every level of the built-in model.",
        )
    )


def framing_widgets(count: int) -> list[io.Input]:
    """Make the widgets of a `Framing`; `count` is the default number of frames."""
    return [
        io.Int.Input("start", default=0, min=0, max=MOST_FRAMES, tooltip="First frame that is taken, counted from 0."),
        io.Int.Input(
            "count", default=count, min=ALL, max=MOST_FRAMES, tooltip="How many frames are taken; 0: all there are."
        ),
        io.Int.Input(
            "sampling_rate", default=1, min=1, max=MOST_FRAMES, tooltip="2 takes every second frame, 3 every third."
        ),
        *[_margin_widget(side) for side in ("left", "right", "top", "bottom")],
        io.Int.Input(
            "short_side",
            default=512,
            min=ALL,
            max=LONGEST_SIDE,
            tooltip="Pixels of the shorter side after scaling, which keeps proportions; 0: the size stays. 512 suits "
            "Stable Diffusion 1.x, 64 the built-in model.",
        ),
        io.Boolean.Input(
            "centre_square",
            default=True,
            tooltip="Cut the longer side off evenly at both ends, to a square. Off: keep the whole picture.",
        ),
    ]


def _margin_widget(side: str) -> io.Input:
    return advanced(
        io.Int.Input(
            f"crop_{side}",
            default=0,
            min=0,
            max=LONGEST_SIDE,
            tooltip=f"Pixels cut off at the {side} before scaling; at least one always remains.",
        )
    )
