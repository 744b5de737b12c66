"""LoadFrames: frames from a folder or a file, cropped and scaled as in the published method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...fatezero_ext.errors import VideoError
from ...fatezero_ext.media.frame_files import ANIMATION_ENDINGS, picture_count
from ...fatezero_ext.media.frame_sources import pictures_in, read_frames
from ...fatezero_ext.media.framing import Framing
from ...fatezero_ext.media.framing import frame_indices as check_selection
from ...fatezero_ext.media.video import video_rate
from .. import host
from ..api import io, schema
from ..checking.verdicts import FirstMistakes, verdict
from ..file_stamps import file_stamp
from .clip_remarks import too_short
from .framing_inputs import framing_of, framing_widgets, rate_widget

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .framing_inputs import FramingWidgets

LONGEST_NAME = 80
"""Number of letters of a name that a message shows."""
FOLDER_RATE = (
    "Frames per second of a folder of pictures, passed on as it is. A video or an animated picture brings its own, "
    "which is divided by sampling_rate."
)


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
            inputs=[_source_widget(), *framing_widgets(count=8), rate_widget(FOLDER_RATE)],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, for VAE Encode."),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for Create Video."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        source: str | None = None,
        start: int | None = None,
        count: int | None = None,
        sampling_rate: int | None = None,
    ) -> bool | str:
        """Look for the source and for as many pictures as are needed; None stands for a widget that is linked."""
        mistakes = FirstMistakes()
        if not all(isinstance(value, int) for value in (start, count, sampling_rate) if value is not None):
            return True  # ComfyUI has refused it already
        first, most, rate = start or 0, count or None, 1 if sampling_rate is None else sampling_rate
        mistakes.check("start", Framing, start=first)
        mistakes.check("count", Framing, count=most)
        mistakes.check("sampling_rate", Framing, sampling_rate=rate)
        if source is not None and not mistakes:

            def check() -> None:
                _check_source(_source_path(source), Framing(start=first, count=most, sampling_rate=rate))

            mistakes.check("source", check)
        return verdict(mistakes)

    @classmethod
    def fingerprint_inputs(cls, source: str, **_widgets: float) -> str:
        """Return what changes when the video file does, or any of the folder's pictures."""
        path = _source_path(source)
        return str([file_stamp(file) for file in (pictures_in(path) if path.is_dir() else [path])])

    @classmethod
    def execute(cls, source: str, fps: float, **widgets: Unpack[FramingWidgets]) -> io.NodeOutput:
        frames, rate = read_frames(_source_path(source), framing_of(widgets))
        shown = fps if rate is None else float(rate)
        host.tell([too_short(len(frames), len(frames) / shown)], (), cls.hidden.unique_id)
        return io.NodeOutput(frames.to(host.current().intermediate_device()), shown)


def _source_path(source: str) -> Path:
    """Return the folder or file of that name below an input folder.

    Raises VideoError if there is none, and for names and links that lead out of that folder.
    """
    roots = host.current().input_folders()
    named = source if len(source) <= LONGEST_NAME else f"{source[:LONGEST_NAME]}..."
    for root in roots if source.strip() else ():
        try:
            path = (root / source).resolve()
            exists = path.is_dir() or path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise VideoError(
                f"{named!r} is no name of a file or folder ({type(error).__name__}). Correct source."
            ) from error
        _check_inside(path, root)
        for file in pictures_in(path) if path.is_dir() else ():
            _check_inside(file, root)
        if exists:
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
    """Raise VideoError if a folder has too few pictures or a file shows no frame. Nothing else is decoded."""
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
