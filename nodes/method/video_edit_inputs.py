"""Inputs of the node that edits a video as a whole."""

from __future__ import annotations

from ...fatezero_ext.editing.settings import KINDS
from ...fatezero_ext.media.framing import LONGEST_SIDE
from ..api import advanced, io
from ..clips.framing_inputs import ALL, MOST_FRAMES, rate_widget
from ..sockets import UNET
from .edit_widgets import frames_at_once_widget

MOST_STEPS = 999


def link_inputs() -> list[io.Input]:
    """Make the sockets."""
    return [
        io.MultiType.Input(
            "model",
            types=[io.Model, UNET],
            tooltip="A Stable Diffusion 1.x or 2.x MODEL of Load Checkpoint, or the UNet of Load Stable Diffusion for "
            "Video.",
        ),
        io.Clip.Input("clip", tooltip="The text encoder of the same model."),
        io.Vae.Input("vae", tooltip="The VAE of the same model."),
        io.Video.Input("video", optional=True, tooltip="The clip to edit, of Load Video. Or connect images."),
        io.Image.Input("images", optional=True, tooltip="The clip to edit as frames, in place of video."),
    ]


def word_inputs() -> list[io.Input]:
    """Make the widgets that say what is wanted."""
    return [
        io.String.Input(
            "source_prompt",
            default="a red circle on the grass",
            multiline=True,
            tooltip="What is in the clip, in plain words.",
        ),
        io.String.Input(
            "edit_prompt",
            default="a blue circle on the grass",
            multiline=True,
            tooltip="What it should be: the same words, with those changed that are to change.",
        ),
        io.Combo.Input(
            "kind",
            options=list(KINDS),
            default=KINDS[0],
            tooltip="What changes; auto reads it from the prompts. It chooses guidance, windows and mask.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            display_mode=io.NumberDisplay.slider,
            tooltip="How much of the edit is done: 0 is the source, 1 all of it.",
        ),
    ]


def rare_inputs() -> list[io.Input]:
    """Make the widgets that leave a choice to the program where they are 0, and the rate."""
    counts = {
        "frames": (MOST_FRAMES, "How many frames are edited; 0: 8, or all of a shorter clip."),
        "start": (MOST_FRAMES, "First frame that is edited, counted from 0."),
        "size": (LONGEST_SIDE, "Pixels of the shorter side; 0: what the model was trained on."),
        "steps": (MOST_STEPS, "DDIM steps; 0: 50, and 20 for the built-in model."),
    }
    return [
        *[
            advanced(io.Int.Input(name, default=ALL, min=ALL, max=most, optional=True, tooltip=tooltip))
            for name, (most, tooltip) in counts.items()
        ],
        advanced(rate_widget("Frames per second of images; a video brings its own.", optional=True)),
        frames_at_once_widget(
            "Most frames that the model computes at once, for long clips; the edit is the same. 0: as many as its "
            "memory holds. For hundreds of frames set norm to frame on Load Stable Diffusion for Video."
        ),
    ]
