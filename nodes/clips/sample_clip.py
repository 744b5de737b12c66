"""SampleClip: clips to try things with."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from .. import host
from ..api import io, schema

EXAMPLES = Path(__file__).parents[2] / "example_workflows"
RED_CIRCLE, CAT, BUNNY = "red circle on grass", "cat on grass", "Big Buck Bunny"
CLIPS = MappingProxyType({RED_CIRCLE: "red_circle_on_grass.mp4", CAT: "cat_on_grass.mp4", BUNNY: "big_buck_bunny.mp4"})
"""Files of the clips by their names in the widget."""


class SampleClip(io.ComfyNode):
    """A clip that comes with the pack: a red circle that moves over grass, for the built-in models, a cat that does,
    for the objects model, or a rabbit in front of a meadow, for Stable Diffusion. Load Video in its place brings a clip
    of yours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_SampleClip",
            display_name="Sample Clip",
            category="FateZero/clips",
            description=cls.__doc__,
            search_aliases=["example video", "test clip"],
            inputs=[
                io.Combo.Input(
                    "sample",
                    options=list(CLIPS),
                    default=RED_CIRCLE,
                    optional=True,  # files of the API format from before there was a choice still run
                    tooltip="red circle on grass, and cat on grass for the built-in objects model: 8 frames of 64x64, "
                    "8 a second, silent. Big Buck Bunny: 2.4 seconds of 896x512, 25 frames a second, with sound "
                    "((c) 2008 Blender Foundation, CC BY 3.0).",
                )
            ],
            outputs=[io.Video.Output(tooltip="For Video Edit, Prepare Frames or Get Video Components.")],
        )

    @classmethod
    def execute(cls, sample: str = RED_CIRCLE) -> io.NodeOutput:
        return io.NodeOutput(host.current().video(EXAMPLES / CLIPS[sample]))
