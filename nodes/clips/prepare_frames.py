"""PrepareFrames: frames of a clip taken, cropped and scaled as in the published method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...fatezero_ext.errors import SettingsError
from ...fatezero_ext.media.audio import Sound, later
from ...fatezero_ext.media.clip import FileFrames
from ...fatezero_ext.media.framing import reframe
from ..api import io, schema
from .framing_inputs import ALL, USUAL_FPS, framing_of, framing_widgets, rate_widget

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from .framing_inputs import FramingWidgets


class PrepareFrames(io.ComfyNode):
    """Take, crop and scale the frames of a clip as in the published method; its rate and its sound go with them."""

    TAKES_FILE_FRAMES = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_PrepareFrames",
            display_name="Prepare Frames",
            category="FateZero/clips",
            description=cls.__doc__,
            search_aliases=["crop frames", "resize clip", "frame rate"],
            inputs=[
                io.Image.Input("images", tooltip="The clip's frames."),
                *framing_widgets(count=ALL),
                # Optional, so that files of the API format from before it was there still run.
                rate_widget(
                    "Frames per second of the clip that comes in, from Get Video Components. What goes out is divided "
                    "by sampling_rate. Connect it with audio: the sound's place depends on it.",
                    optional=True,
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The clip's sound, from Get Video Components. It begins at start / fps seconds: connect "
                    "the clip's fps too.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, for VAE Encode."),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for Create Video."),
                io.Audio.Output(display_name="audio", tooltip="The sound from the first frame on, for Create Video."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor | FileFrames,
        fps: float = USUAL_FPS,
        audio: Sound | None = None,
        **widgets: Unpack[FramingWidgets],
    ) -> io.NodeOutput:
        framing = framing_of(widgets)
        if not 0 < fps < math.inf:
            raise SettingsError(f"fps is {fps}; a positive rate is needed. Check what is connected to fps.")
        frames = images.taken(framing) if isinstance(images, FileFrames) else reframe(images, framing)
        sound = None if audio is None else later(audio, framing.start / fps)
        return io.NodeOutput(frames, fps / framing.sampling_rate, sound)
