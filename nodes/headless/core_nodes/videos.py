"""Stand-ins for the core nodes that read and write videos."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....fatezero_ext.errors import FateZeroError, SettingsError
from ....fatezero_ext.media.audio import SoundFile
from ....fatezero_ext.media.clip import FileFrames, VideoClip, opened_clip
from ....fatezero_ext.media.framing import AS_IS
from ....fatezero_ext.media.streamed import StreamedFrames
from ....fatezero_ext.media.video import write_video
from ... import host
from ...api import io
from ...file_stamps import file_stamp, time_stamp
from .core_node import CoreNode, SavingNode
from .naming import next_free

if TYPE_CHECKING:
    from torch import Tensor

COMFYUI_CRF = 23  # x264's own default
BITS = 8
"""Bits per colour channel of the frames that are read and written."""
NOT_CHOSEN = (
    "there is no file '': no clip is chosen. Name one, such as --set LoadVideo.file=clip.mp4, and its folder as "
    "--input."
)
CODECS = {"format.codec": ["auto", "h264"], "format.codec.encoding": ["auto"], "codec": ["auto", "h264"]}
"""Widgets for the codec with their options: newer ComfyUI shows the first two below `format`, older the last."""


class LoadVideo(CoreNode):
    """Reads a video from the input folder."""

    CORE_SCHEMA = io.Schema(
        "LoadVideo",
        "Load Video",
        "image/video",
        [io.Combo.Input("file", options=[], upload=io.UploadType.video)],
        [io.Video.Output()],
    )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """Check before anything runs that the file is there and its first frame can be read.

        file: None where it is linked and not known yet
        """
        if file is None:
            return True
        if not file.strip():
            return NOT_CHOSEN
        try:
            path = host.current().input_file(file)
            _check_clip(path, tuple(time_stamp(path)))
        except FateZeroError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> list[str | int]:
        """Return what changes when the file does.

        file: None where it is linked: the node that it comes from tells
        """
        return [] if file is None else file_stamp(host.current().input_file(file))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Open the file; only its first frame is decoded yet."""
        return io.NodeOutput(opened_clip(host.current().input_file(file)))


@lru_cache(maxsize=8)
def _check_clip(path: Path, _stamp: tuple[str | int, ...]) -> None:
    """Raise VideoError unless the first frame can be read; not repeated for the next rows of a batch."""
    opened_clip(path)


class GetVideoComponents(CoreNode):
    """Takes a video apart."""

    CORE_SCHEMA = io.Schema(
        "GetVideoComponents",
        "Get Video Components",
        "image/video",
        [io.Video.Input("video", tooltip="The video.")],
        [
            io.Image.Output(display_name="images"),
            io.Audio.Output(display_name="audio"),
            io.Float.Output(display_name="fps"),
            io.Int.Output(display_name="bit_depth"),
        ],
    )

    @classmethod
    def execute(cls, video: VideoClip) -> io.NodeOutput:
        """Return frames, sound (None for a silent video), rate and bits; frames are decoded where they are used."""
        return io.NodeOutput(video.frames, video.sound, float(video.frame_rate), BITS)


class CreateVideo(CoreNode):
    """Makes a video of pictures."""

    TAKES_FILE_FRAMES = TAKES_STREAMED_FRAMES = True

    CORE_SCHEMA = io.Schema(
        "CreateVideo",
        "Create Video",
        "image/video",
        [
            io.Image.Input("images", tooltip="The frames."),
            io.Float.Input("fps", default=30.0, min=1.0, max=120.0, step=1.0),
            io.Audio.Input("audio", optional=True, tooltip="Sound, cut at the last frame."),
            io.Int.Input("bit_depth", optional=True, default=BITS, min=BITS, max=10, step=2, tooltip="Of the file."),
        ],
        [io.Video.Output()],
    )

    @classmethod
    def validate_inputs(cls, bit_depth: int | None = None) -> bool | str:
        """Refuse a depth that the runner does not write; None stands for a linked one."""
        return True if bit_depth in (None, BITS) else _no_such_depth(bit_depth)

    @classmethod
    def execute(
        cls,
        images: Tensor | FileFrames | StreamedFrames,
        fps: float,
        audio: SoundFile | Mapping[str, Any] | None = None,
        bit_depth: int = BITS,
    ) -> io.NodeOutput:
        """images: [frames, height, width, 3], 0..1."""
        if bit_depth != BITS:
            raise SettingsError(_no_such_depth(bit_depth))
        return io.NodeOutput(VideoClip(images, Fraction(round(fps * 1000), 1000), audio))


def _no_such_depth(bit_depth: int) -> str:
    return f"bit_depth is {bit_depth}; the runner writes {BITS} bits. Set {BITS}, or run the workflow in ComfyUI."


class SaveVideo(SavingNode):
    """Saves a video into the output folder."""

    CORE_SCHEMA = io.Schema(
        "SaveVideo",
        "Save Video",
        "image/video",
        [
            io.Video.Input("video", tooltip="The video to save."),
            io.String.Input("filename_prefix", default="video/ComfyUI", tooltip="Start of the file's name."),
            io.Combo.Input("format", options=["auto", "mp4"], default="auto", tooltip="The container."),
            *(
                io.Combo.Input(name, options=options, default="auto", optional=True, tooltip="The codec.")
                for name, options in CODECS.items()
            ),
        ],
        [io.Video.Output()],
        is_output_node=True,
    )

    @classmethod
    def execute(
        cls, video: VideoClip, filename_prefix: str, format: str, codec: str = "auto", **_more: str
    ) -> io.NodeOutput:
        """Encode H.264 in MP4 as ComfyUI does, which is what every choice of format and codec means here."""
        frames, most = video.frames, host.current().most_held_bytes()
        if isinstance(frames, FileFrames):
            frames = frames.all() if most is None else frames.taken_within(AS_IS, most)
        height, width = frames.shape[1:3]
        path = next_free(host.current().output_directory(), filename_prefix, "mp4", width=width, height=height)
        lost = write_video(
            path,
            frames,
            video.frame_rate,
            crf=COMFYUI_CRF,
            repeatable=False,
            sound=video.sound,
            rounding="floor",  # ComfyUI cuts levels off, where others round
        )
        return io.NodeOutput(video, ui={"saved": (str(path),), "text": () if lost is None else (lost,)})
