"""SampleClip: the clip of the example workflows."""

from __future__ import annotations

from pathlib import Path

from .. import host
from ..api import io, schema

SAMPLE_CLIP = Path(__file__).parents[2] / "example_workflows" / "red_circle_on_grass.mp4"


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
        return io.NodeOutput(host.current().video(SAMPLE_CLIP))
