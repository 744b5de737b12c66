"""PrepareFrames: frames of a clip taken, cropped and scaled as in the published method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...fatezero_ext.media.audio import Sound, later
from ...fatezero_ext.media.clip import FileFrames, VideoClip
from ...fatezero_ext.media.framing import Framing, reframe
from ...fatezero_ext.media.streamed import StreamedFrames
from .. import host
from ..api import io, schema
from ..checking.graph_texts import FRAMES_NODE, inputs_of
from ..checking.verdicts import graph_now, verdict
from .clip_remarks import lost_sound, too_short, unheard_sound
from .framing_inputs import ALL, USUAL_FPS, framing_of, framing_widgets, multiple_widget, rate_widget
from .given_clip import clip_mistakes, given_clip
from .held import held

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from .framing_inputs import FramingWidgets


class PrepareFrames(io.ComfyNode):
    """Take, crop and scale the frames of a clip as in the published method; its rate and its sound go with them."""

    TAKES_FILE_FRAMES = TAKES_STREAMED_FRAMES = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=FRAMES_NODE,
            display_name="Prepare Frames",
            category="FateZero/clips",
            description=cls.__doc__,
            search_aliases=["crop frames", "resize clip", "frame rate"],
            inputs=[
                io.Image.Input("images", optional=True, tooltip="The clip's frames; or connect video."),
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
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip="In place of images, fps and audio: a whole video, with its own rate and sound. Only the "
                    "frames that are taken are kept in memory.",
                ),
                multiple_widget(),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, for VAE Encode."),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for Create Video."),
                io.Audio.Output(display_name="audio", tooltip="The sound from the first frame on, for Create Video."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, images: None = None, video: None = None, centre_square: bool | None = None) -> bool | str:
        """Check that one clip is connected; both inputs are links, which the graph shows.

        centre_square: not looked at; ComfyUI reports the answer at inputs that are named here and present, and of
        images and video there may be neither
        """
        graph = graph_now()
        inputs = inputs_of(graph, getattr(cls.hidden, "unique_id", None), FRAMES_NODE)
        return verdict(clip_mistakes(inputs, graph))

    @classmethod
    def execute(
        cls,
        images: Tensor | FileFrames | None = None,
        fps: float = USUAL_FPS,
        audio: Sound | None = None,
        video: Any = None,  # noqa: ANN401 - the program's own kind of video
        **widgets: Unpack[FramingWidgets],
    ) -> io.NodeOutput:
        framing = framing_of(widgets)
        clip = given_clip(images, video, fps)
        rate, sound = float(clip.frame_rate), clip.sound if audio is None else audio
        taken = _taken(clip, framing)
        seconds = len(taken) * framing.sampling_rate / clip.frame_rate
        remarks = [too_short(len(taken), float(seconds))]
        if sound is not None:
            heard = later(sound, framing.start / rate)
            remarks += [lost_sound(heard, seconds) or unheard_sound(cls.hidden.prompt or {}, cls.hidden.unique_id)]
            sound = host.current().sound(heard, seconds)
        host.tell(remarks, (), cls.hidden.unique_id)
        return io.NodeOutput(taken, rate / framing.sampling_rate, sound)


def _taken(clip: VideoClip, framing: Framing) -> Tensor | StreamedFrames:
    frames = clip.frames
    if isinstance(frames, StreamedFrames):
        return held(frames.reframed(framing))
    if not isinstance(frames, FileFrames):
        return reframe(frames, framing)
    most = host.current().most_held_bytes()
    return frames.taken(framing) if most is None else frames.taken_within(framing, most)
