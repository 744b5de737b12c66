"""CompareClips: a clip and its edits in one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...fatezero_ext.errors import VideoError
from ...fatezero_ext.media.streamed import StreamedFrames, parts_of, whole
from .. import host
from ..api import io, schema
from ..first_use import importing
from .held import is_streamed

if TYPE_CHECKING:
    from torch import Tensor

MOST_EDITS = 8


class CompareClips(io.ComfyNode):
    """Show the source and its edits beside each other, frame by frame, each under its label."""

    TAKES_STREAMED_FRAMES = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_CompareClips",
            display_name="Compare Clips",
            category="FateZero/clips",
            description=cls.__doc__,
            search_aliases=["side by side", "grid", "before after"],
            has_intermediate_output=True,  # newer pages show the film again after a reload
            is_input_list=True,
            inputs=[
                io.Image.Input("source", tooltip="The clip that was edited."),
                io.Image.Input("edit_1", tooltip="An edit of it, or a list of edits: same frames, same size."),
                *[
                    io.Image.Input(f"edit_{number}", optional=True, tooltip="Another edit, or a list of edits.")
                    for number in range(2, MOST_EDITS + 1)
                ],
                io.String.Input(
                    "labels",
                    default="",
                    multiline=True,
                    tooltip="One label a line (or a linked list), the source's first. Those left out are 'source', "
                    "'edit'; of several edits 'edit 1', 'edit 2', ...",
                ),
                io.String.Input(
                    "edit_labels",
                    optional=True,
                    force_input=True,
                    tooltip="Labels of the edits alone, such as the list of Edit Prompts.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The grid, one picture per frame.")],
        )

    @classmethod
    def execute(
        cls,
        source: list[Tensor | StreamedFrames],
        edit_1: list[Tensor | StreamedFrames],
        labels: list[str],
        edit_labels: list[str] | None = None,
        **edits: list[Tensor | StreamedFrames | None],
    ) -> io.NodeOutput:
        with importing():
            from ...fatezero_ext.pictures.comparison_grid import centre_crop_like, compare
            from ...fatezero_ext.pictures.labelled_sheet import Tile

        if len(source) != 1:
            raise VideoError(f"source brings {len(source)} clips; one is needed. Link the clip that was edited.")
        further = [edits.get(f"edit_{number}") or [] for number in range(2, MOST_EDITS + 1)]
        shown = [*edit_1, *(clip for brought in further for clip in brought if clip is not None)]
        named = _labels(labels, edit_labels or [], 1 + len(shown))

        def cropped(given: Sequence[Tensor]) -> list[Tensor]:
            before, *edited = (clip[..., :3] for clip in given)  # transparency is not compared
            return [centre_crop_like(before, edited[0]) if edited else before, *edited]

        given = [source[0], *shown]
        if is_streamed(*given) and len({len(clip) for clip in given}) == 1:
            return io.NodeOutput(_streamed(given, lambda parts: compare(cropped(parts), named)))
        clips = cropped([whole(clip) for clip in given])
        grid = compare(clips, named)
        film = host.current().film(lambda: [Tile(label, clip) for label, clip in zip(named, clips, strict=True)])
        return io.NodeOutput(grid, ui=film)


def _streamed(clips: Sequence[Tensor | StreamedFrames], drawn: Callable[[Sequence[Tensor]], Tensor]) -> StreamedFrames:
    """Return grids that are drawn where they are used; drawn: of one part of every clip."""
    import torch

    def pieces() -> Iterator[Tensor]:
        for parts in zip(*map(parts_of, clips), strict=True):
            yield drawn(parts)

    sizes = drawn([torch.zeros(1, *clip.shape[1:]) for clip in clips]).shape[1:]
    return StreamedFrames((len(clips[0]), *sizes), pieces)


def _labels(texts: list[str], of_edits: list[str], clips: int) -> list[str]:
    """Return one label per clip. A single text has one a line; of a list, each text is one.

    of_edits: labels of the edits, in place of those in `texts`
    """
    labels = texts[0].rstrip().splitlines() if len(texts) == 1 else texts
    if of_edits:
        labels = [*(labels[:1] or [""]), *of_edits]
    if len(labels) > clips:
        raise VideoError(f"there are {len(labels)} labels for {clips} clips; one each is needed. Remove some.")
    usual = ["source", *(["edit"] if clips == 2 else [f"edit {number}" for number in range(1, clips)])]
    return [label.strip() or name for label, name in zip([*labels, *[""] * clips], usual, strict=False)]
