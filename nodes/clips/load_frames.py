"""SampleClip, LoadFrames and PrepareFrames: a clip's frames, cropped and scaled as in the published method."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ...fatezero_ext.errors import SettingsError, VideoError
from ...fatezero_ext.media.audio import Sound, later
from ...fatezero_ext.media.clip import FileFrames
from ...fatezero_ext.media.frame_files import ANIMATION_ENDINGS, picture_count
from ...fatezero_ext.media.framing import Framing, pictures_in, read_frames, reframe
from ...fatezero_ext.media.framing import frame_indices as check_selection
from ...fatezero_ext.media.video import LONGEST_SIDE, video_rate
from ..api import io, schema
from ..checking.verdicts import Found, verdict
from ..host import current as host

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_CLIP = Path(__file__).parents[2] / "example_workflows" / "red_circle_on_grass.mp4"
LONGEST_NAME = 80
"""Letters of a name that a message shows."""
MOST_FRAMES = 1_000_000
"""Upper bound of the frame widgets; a bound at all keeps a slipped finger from asking for the impossible."""
ALL = 0
"""The widgets' value for all frames, and for the size as it is."""
USUAL_FPS = 8.0
"""Default of the rate widgets: that of the published clips."""
FOLDER_RATE = (
    "Frames per second of a folder of pictures, passed on as it is. A video or an animated picture brings its own, "
    "which is divided by sampling_rate."
)


class SampleClip(io.ComfyNode):
    """The clip of the example workflows: a red circle that moves over grass, 8 frames of 64x64, for the built-in model.
    Load Video in its place brings a clip of yours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_SampleClip",
            display_name="Sample Clip",
            category="FateZero/clips",
            description=cls.__doc__,
            search_aliases=["example video", "test clip"],
            inputs=[],
            outputs=[io.Video.Output(tooltip="For Get Video Components.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(host.video(SAMPLE_CLIP))


class LoadFrames(io.ComfyNode):
    """Read a clip from a folder of pictures, a video file or an animated picture, cropped and scaled as in the
    published method."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_LoadFrames",
            display_name="Load Frames",
            category="FateZero/clips",
            description=cls.__doc__,
            search_aliases=["load video", "image sequence", "frames from folder"],
            inputs=[_source_widget(), *_framing_widgets(count=8), _rate_widget(FOLDER_RATE)],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, for VAE Encode."),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for Create Video."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        source: str | None = None,
        start: int | None = None,
        count: int | None = None,
        sampling_rate: int | None = None,
    ) -> bool | str:
        """Look for the source and as many pictures as are asked for; None stands for what is linked."""
        found = Found()
        given = {
            "start": start or 0,
            "count": count or None,
            "sampling_rate": 1 if sampling_rate is None else sampling_rate,
        }
        for name, value in given.items():
            found.of(name, Framing, **{name: value})
        if source is not None and not found:
            found.of("source", lambda: _check_source(_source_path(source), Framing(**given)))
        return verdict(found)

    @classmethod
    def fingerprint_inputs(cls, source: str, **_widgets: float) -> str:
        """Changes when the video file does, or any of the folder's pictures."""
        path = _source_path(source)
        files = pictures_in(path) if path.is_dir() else [path]
        return str([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])

    @classmethod
    def execute(cls, source: str, fps: float, **widgets: int) -> io.NodeOutput:
        frames, rate = read_frames(_source_path(source), _framing(**widgets))
        return io.NodeOutput(frames.to(host.intermediate_device()), fps if rate is None else float(rate))


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
                *_framing_widgets(count=ALL),
                # Optional, so that files of the API format from before it was there still run.
                _rate_widget(
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
        cls, images: Tensor | FileFrames, fps: float = USUAL_FPS, audio: Sound | None = None, **widgets: int
    ) -> io.NodeOutput:
        framing = _framing(**widgets)
        if not 0 < fps < math.inf:
            raise SettingsError(f"fps is {fps}; a positive rate is needed. Check what is connected to fps.")
        frames = images.taken(framing) if isinstance(images, FileFrames) else reframe(images, framing)
        sound = None if audio is None else later(audio, framing.start / fps)
        return io.NodeOutput(frames, fps / framing.sampling_rate, sound)


def _framing(
    *,
    start: int,
    count: int,
    sampling_rate: int,
    crop_left: int,
    crop_right: int,
    crop_top: int,
    crop_bottom: int,
    short_side: int,
    centre_square: bool,
) -> Framing:
    """The widgets' framing."""
    return Framing(
        start=start,
        count=count or None,
        sampling_rate=sampling_rate,
        left=crop_left,
        right=crop_right,
        top=crop_top,
        bottom=crop_bottom,
        short_side=short_side or None,
        centre_square=centre_square,
    )


def _source_path(source: str) -> Path:
    """The folder or file of that name below an input folder.

    Raises VideoError where there is none, and for names and links that lead out of that folder.
    """
    roots = host.input_folders()
    named = source if len(source) <= LONGEST_NAME else f"{source[:LONGEST_NAME]}..."
    for root in roots if source.strip() else ():
        try:
            path = (root / source).resolve()
            found = path.is_dir() or path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise VideoError(
                f"{named!r} is no name of a file or folder ({type(error).__name__}). Correct source."
            ) from error
        _check_inside(path, root)
        for file in pictures_in(path) if path.is_dir() else ():
            _check_inside(file, root)
        if found:
            return path
    if not source.strip():
        raise VideoError(
            f"source is empty; a folder of pictures or a video file in {', '.join(str(root) for root in roots)} is "
            f"needed. Write its name."
        )
    raise VideoError(
        f"there is no folder and no file {named!r} in {', '.join(str(root) for root in roots)}; source needs a folder "
        f"of pictures or a video file there. Correct the name, or copy the clip there."
    )


def _check_inside(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise VideoError(f"{path} is outside the input folder {root}; only files inside are read. Copy the clip there.")


def _check_source(path: Path, selection: Framing) -> None:
    """Raise VideoError where a folder has too few pictures or a file shows no frame. Nothing else is decoded."""
    if path.is_dir():
        check_selection(selection, len(pictures_in(path)), name=str(path))
    elif path.suffix.lower() in ANIMATION_ENDINGS:
        check_selection(selection, picture_count(path), name=str(path))
    else:
        video_rate(path)


def _source_widget() -> io.Input:
    return io.String.Input(
        "source",
        default="",
        tooltip="A folder of pictures, a video file or an animated picture, by its name below the input folder: "
        "my_clip, or clips/jeep.mp4. Pictures of a folder are read in the order of their names.",
    )


def _rate_widget(tooltip: str, *, optional: bool = False) -> io.Input:
    return io.Float.Input("fps", default=USUAL_FPS, min=0.01, max=1000.0, step=0.01, optional=optional, tooltip=tooltip)


def _framing_widgets(count: int) -> list[io.Input]:
    """The widgets of a `Framing`; `count` is the default number of frames."""
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
    return io.Int.Input(
        f"crop_{side}",
        default=0,
        min=0,
        max=LONGEST_SIDE,
        tooltip=f"Pixels cut off at the {side} before scaling; at least one always remains.",
    )
